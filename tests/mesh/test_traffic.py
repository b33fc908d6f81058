"""Real Envoys, configured by Istio's own code, before real services: what fails is met as the manifests say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import grpc
import pytest

from tests.observability.rendered import until

from .certificates import Authority
from .conftest import Live, Stubbed
from .envoy import admin
from .proxy import UNLISTED
from .stack import HOST, Mesh
from .stub import Stub

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("istio")]

READ, WRITE, STREAM = "GetOrder", "PlaceOrder", "ListOrders"
ORDER = '{"customer": "Ada", "item": "tea", "quantity": 1}'
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def call(channel: grpc.Channel, name: str) -> grpc.StatusCode:
    """Call a method of the service with an empty message; return the status."""
    method: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/order_service.v1.OrderService/{name}")
    try:
        list(method(b"", timeout=30))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def once(mesh: Mesh, name: str) -> grpc.StatusCode:
    """Call a method over a connection of its own."""
    with mesh.channel() as channel:
        return call(channel, name)


def arrived(stubs: list[Stub]) -> int:
    """Return how many requests the pods have seen."""
    return sum(len(stub.arrived) for stub in stubs)


def ejected(mesh: Mesh) -> bool:
    """Say whether the caller's proxy gives a pod nothing for now."""
    clusters = admin(mesh.caller, "/clusters?format=json")["cluster_statuses"]
    hosts = [host for each in clusters for host in each.get("host_statuses", [])]
    return any(host["health_status"].get("failed_outlier_check") for host in hosts)


def test_a_read_that_fails_is_sent_again_to_another_pod(stubbed: Stubbed) -> None:
    mesh, stubs = stubbed
    stubs[0].status, stubs[0].code = 503, UNAVAILABLE
    if "http" in mesh.doors:
        assert {mesh.call("GET", "/v1/orders").status for _ in range(20)} == {200}
    if "grpc" in mesh.doors:
        assert {once(mesh, READ) for _ in range(20)} == {grpc.StatusCode.OK}
    assert stubs[0].arrived


def test_a_write_that_fails_arrives_once(stubbed: Stubbed) -> None:
    mesh, stubs = stubbed
    for stub in stubs:
        stub.status, stub.code = 503, UNAVAILABLE
    if "http" in mesh.doors:
        assert mesh.call("POST", "/v1/orders", ORDER).status == 503
    if "grpc" in mesh.doors:
        assert once(mesh, WRITE) == UNAVAILABLE
    assert arrived(stubs) == len(mesh.doors)


def test_a_stream_that_fails_arrives_once(stubbed: Stubbed) -> None:
    mesh, stubs = stubbed
    if "grpc" not in mesh.doors:
        assert "streams" not in str(mesh.answer.proxies["shop/caller"]["routes"])
        return
    for stub in stubs:
        stub.code = UNAVAILABLE
    assert once(mesh, STREAM) == UNAVAILABLE
    assert arrived(stubs) == 1


def while_its_pod_dies(stubbed: Stubbed, ask: Callable[[], object]) -> object:
    """Ask, have the pod die that has the request, and let the other one answer; return what is answered."""
    mesh, stubs = stubbed
    for stub in stubs:
        stub.reset()
        stub.answering.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        until(lambda: arrived(stubs), lambda: "nothing has arrived")
        dying = 0 if stubs[0].arrived else 1
        stubs[1 - dying].answering.set()
        mesh.proxies[dying].kill()
        stubs[dying].answering.set()
        try:
            return answer.result()
        finally:
            mesh.proxies[dying].start()


def test_a_read_that_is_under_way_when_its_pod_dies_is_answered_by_another(stubbed: Stubbed) -> None:
    mesh, stubs = stubbed
    if "http" in mesh.doors:
        assert while_its_pod_dies(stubbed, lambda: mesh.call("GET", "/v1/orders").status) == 200
        assert arrived(stubs) == 2
    if "grpc" in mesh.doors:
        assert while_its_pod_dies(stubbed, lambda: once(mesh, READ)) == grpc.StatusCode.OK
        assert arrived(stubs) == 2


def test_a_write_that_is_under_way_when_its_pod_dies_is_not_sent_again(stubbed: Stubbed) -> None:
    mesh, stubs = stubbed
    if "http" in mesh.doors:
        assert while_its_pod_dies(stubbed, lambda: mesh.call("POST", "/v1/orders", ORDER).status) == 503
        assert arrived(stubs) == 1
    if "grpc" in mesh.doors:
        assert while_its_pod_dies(stubbed, lambda: once(mesh, WRITE)) == UNAVAILABLE
        assert arrived(stubs) == 1


def test_a_pod_that_fails_five_times_gets_nothing_more(stubbed: Stubbed) -> None:
    mesh, stubs = stubbed
    stubs[0].status, stubs[0].code = 500, grpc.StatusCode.INTERNAL
    ask: Callable[[], object] = lambda: mesh.call("POST", "/v1/orders", ORDER).status  # noqa: E731
    if "http" not in mesh.doors:
        ask = lambda: once(mesh, WRITE)  # noqa: E731
    assert not ejected(mesh)
    until(lambda: ask() and ejected(mesh), lambda: stubs[0].arrived)
    assert len(stubs[0].arrived) >= 5
    before = len(stubs[0].arrived)
    good = 200 if "http" in mesh.doors else grpc.StatusCode.OK
    assert {ask() for _ in range(50)} == {good}
    assert len(stubs[0].arrived) == before


def test_the_service_answers_inside_and_through_the_gateway(live: Live) -> None:
    mesh, _ = live
    if "http" in mesh.doors:
        for ask in (mesh.call, mesh.call_from_outside):
            placed = ask("POST", "/v1/orders", ORDER)
            assert placed.status == 201
            assert ask("GET", "/v1/orders").status == 200
    if "grpc" in mesh.doors:
        for channel in (mesh.channel(), mesh.channel_from_outside()):
            with channel:
                assert call(channel, READ) == grpc.StatusCode.INVALID_ARGUMENT
                assert call(channel, STREAM) == grpc.StatusCode.OK


def test_the_gateway_sends_those_without_tls_to_https(live: Live) -> None:
    mesh, _ = live
    reply = mesh.call_gateway("GET", "/v1/orders")
    assert (reply.status, reply.headers["location"]) == (301, f"https://{HOST}/v1/orders")


def test_nobody_is_admitted_without_a_certificate_of_the_mesh(live: Live) -> None:
    mesh, _ = live
    stranger = Authority()
    stranger.pem, own = mesh.authority.pem, stranger.pem
    assert own != stranger.pem
    for port in mesh.ports.values():
        for context in (None, stranger.context("shop", "caller")):
            with pytest.raises((HTTPException, OSError)):
                mesh.call_pod(port, "GET", "/health/live", context)


def test_only_the_ports_that_clients_call_are_open_and_only_to_the_namespaces_of_callers(live: Live) -> None:
    mesh, _ = live
    open_to = {
        (namespace, name)
        for namespace in ("shop", "istio-ingress", "istio-system", "monitoring", "elsewhere")
        for name, port in (mesh.ports | {"unlisted": UNLISTED}).items()
        if mesh.call_pod(port, "GET", "/v1/orders", mesh.authority.context(namespace, "caller")).status != 403
    }
    callers = ("shop", "istio-ingress", "istio-system")
    assert open_to == {(namespace, name) for namespace in callers for name in mesh.doors}


def test_metrics_are_read_by_monitoring_alone_and_nothing_else_is(live: Live) -> None:
    mesh, _ = live
    statuses = {
        (namespace, method, path): mesh.call_pod(
            mesh.ports["ops"], method, path, mesh.authority.context(namespace, "prometheus")
        ).status
        for namespace in ("monitoring", "shop", "elsewhere")
        for method in ("GET", "POST")
        for path in ("/metrics", "/info", "/health/ready")
    }
    allowed = ("monitoring", "GET", "/metrics")
    assert statuses.pop(allowed) == 200
    assert set(statuses.values()) == {403}


def test_a_call_of_the_operations_port_is_led_there_and_refused(live: Live) -> None:
    mesh, _ = live
    for method in ("GET", "POST"):
        reply = mesh.call(method, "/metrics", port="ops")
        assert (reply.status, reply.body) == (403, b"RBAC: access denied")


def test_no_read_fails_after_a_pod_has_died(live: Live) -> None:
    mesh, services = live

    def read() -> set[object]:
        answers: set[object] = set()
        for _ in range(40):
            if "http" in mesh.doors:
                answers.add(mesh.call("GET", "/v1/orders").status)
            if "grpc" in mesh.doors:
                answers.add(once(mesh, READ))
        return answers

    # The service has answered, and it refuses an empty message.
    good = {{"http": 200, "grpc": grpc.StatusCode.INVALID_ARGUMENT}[door] for door in mesh.doors}
    assert read() == good
    services[0].process.kill()
    mesh.proxies[0].kill()
    assert read() == good
