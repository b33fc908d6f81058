"""A pod's process that counts what arrives, and fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc


class Stub(grpc.GenericRpcHandler):
    """An application with all three ports; close it.

    Attributes:
        status: what it answers over HTTP.
        code: what it answers over gRPC.
        arrived: methods and paths of what has arrived, in order.
        headers: theirs, with names in lower case.
        answering: it answers while this is set.
    """

    def __init__(self) -> None:
        self.answering = threading.Event()
        self.reset()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self._grpc = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        self.http_port = self.ops_port = self._http.server_port

    def reset(self) -> None:
        """Answer well again, and forget what has arrived."""
        self.status = 200
        self.code = grpc.StatusCode.OK
        self.arrived: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.answering.set()

    def close(self) -> None:
        """Stop both servers."""
        self.answering.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Answer any call, streams too."""
        return grpc.stream_stream_rpc_method_handler(self._behaviour(str(details.method)))

    def _behaviour(self, method: str) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self.arrived.append(("POST", method))
            self.headers.append({str(key): str(value) for key, value in context.invocation_metadata()})
            self.answering.wait()
            if self.code is not grpc.StatusCode.OK:
                context.abort(self.code, "as told")
            yield b""

        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                stub.arrived.append((self.command, self.path))
                stub.headers.append({key.lower(): value for key, value in self.headers.items()})
                stub.answering.wait()
                self.send_response(stub.status)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST = do_PATCH = answer  # noqa: N815 - http.server looks for these names

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        return Handler
