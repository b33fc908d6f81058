"""The proxy that makes faults for Linkerd, run: a real Envoy as it is rendered before a stand-in service."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.conftest import Render
from tests.servers.server import Server

from .envoy import Envoy
from .istiod import Json
from .stub import Stub

pytestmark = pytest.mark.slow
# Of the 5 seconds for those who ask for it: Envoy's clock is not ours, and nobody else waits as long on a busy machine.
DELAY = 4.5


def configuration(file: Path, stub: Stub, ports: list[int]) -> Json:
    """Return the proxy's own configuration, but for addresses and ports."""
    found: Json = yaml.safe_load(file.read_text())
    numbers = dict(zip(("ops", "http", "grpc"), ports, strict=True))
    for listener in found["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = local(numbers[listener["name"]])
    for cluster in found["static_resources"]["clusters"]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["socket_address"]["address"] == "order-service"
        port = {"http": stub.http_port, "grpc": stub.grpc_port}[cluster["name"]]
        endpoint["endpoint"]["address"]["socket_address"] = local(port)
    return found


def local(port: int) -> Json:
    """Return an address of this machine."""
    return {"address": "127.0.0.1", "port_value": port}


@pytest.fixture(scope="module")
def mesh(render: Render) -> Iterator[tuple[Server, Stub]]:
    """The proxy of a kind with both doors before a stand-in."""
    file = render(service_kind="hybrid", mesh="linkerd") / "k8s/components/faults/envoy.yaml"
    with closing(Stub()) as stub, closing(Server(Envoy(partial(configuration, file, stub), ports=3))) as server:
        yield server.start(), stub


def over_http(server: Server, headers: dict[str, str]) -> str:
    """Call over HTTP; return the status."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{server.ports[1]}", headers=headers), timeout=30
        ) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)


def over_grpc(server: Server, headers: dict[str, str]) -> str:
    """Call over gRPC; return the status."""
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[2]}") as channel:
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
    stub.reset()
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
