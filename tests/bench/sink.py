"""A receiver of OTLP over HTTP that keeps nothing, and counts batches by the endpoint that they came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sink

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.batches[self.path.split("/")[1]] += 1
        # An ExportTraceServiceResponse without fields has no bytes.
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass


class Sink(ThreadingHTTPServer):
    """The receiver; `endpoint("x")` is an address whose batches are counted in `batches["x"]`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.batches: Counter[str] = Counter()

    def endpoint(self, name: str) -> str:
        """Return an address for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}/{name}"


@contextmanager
def running() -> Iterator[Sink]:
    """Run a sink in a thread."""
    with Sink() as sink:
        thread = Thread(target=sink.serve_forever, daemon=True)
        thread.start()
        yield sink
        sink.shutdown()
        thread.join()
