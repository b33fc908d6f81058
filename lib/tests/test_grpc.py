"""The gRPC server on real connections: context, errors, deadlines, principal, health, draining, stopping."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from marty_lib import (
    App,
    FieldError,
    GrpcServer,
    GrpcSettings,
    InvalidInput,
    NotFound,
    RateLimited,
    StartError,
    Unauthenticated,
    context,
    serve_grpc,
)
from marty_lib._grpc_ended import Ended
from prometheus_client import REGISTRY

from tests.servers.requirement import missing

Soon = Callable[[Callable[[], object]], Awaitable[None]]
SECRET = "hunter2"  # noqa: S105
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SHOP = "shop.v1.Orders"


class Orders:
    """A servicer whose requests are the name of what is to happen, and whose answers tell of the context."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def get(self, request: bytes, rpc: Any) -> bytes:
        """Unary."""
        await self._do(request.decode(), rpc)
        return repr(context.current()).encode()

    async def list(self, request: bytes, rpc: Any) -> AsyncIterator[bytes]:
        """Server streaming."""
        yield b"first"
        await self._do(request.decode(), rpc)
        yield repr(context.current()).encode()

    async def sum(self, requests: AsyncIterator[bytes], rpc: Any) -> bytes:
        """Client streaming."""
        found = [each async for each in requests]
        for each in found:
            await self._do(each.decode(), rpc)
        return str(len(found)).encode()

    async def talk(self, requests: AsyncIterator[bytes], rpc: Any) -> AsyncIterator[bytes]:
        """Both streaming."""
        async for each in requests:
            await self._do(each.decode(), rpc)
            yield each

    async def _do(self, what: str, rpc: Any) -> None:
        match what:
            case "wait":
                await self._wait()
            case "missing":
                raise NotFound("There is no such order.", code="no-such-order")
            case "wrong":
                raise InvalidInput("Some fields are wrong.", errors=[FieldError("/items/0/quantity", "is too small")])
            case "limited":
                raise RateLimited("Too often.", headers={"Retry-After": "7"})
            case "abort":
                await rpc.abort(StatusCode.DATA_LOSS, "of its own")
            case "code":
                rpc.set_code(StatusCode.DATA_LOSS)
            case "trailing":
                rpc.set_trailing_metadata((("cost", "7"),))
            case "broken":
                raise RuntimeError(f"postgresql://orders:{SECRET}@db")

    async def _wait(self) -> None:
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def register(self, server: grpc.aio.Server) -> None:
        """Add the methods as generated code does."""
        handlers: dict[str, Any] = {
            "Get": grpc.unary_unary_rpc_method_handler(self.get),
            "List": grpc.unary_stream_rpc_method_handler(self.list),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SHOP, handlers),))
        server.add_registered_method_handlers(SHOP, handlers)


@pytest.fixture
def orders() -> Orders:
    return Orders()


def connect(port: int, host: str = "127.0.0.1") -> Any:
    """Return a channel without types, for requests are bytes here."""
    return grpc.aio.insecure_channel(f"{host}:{port}")


class Served:
    """A server that runs, and a channel to it."""

    def __init__(self, app: App, server: GrpcServer, channel: Any) -> None:
        self.app = app
        self.server = server
        self.channel = channel

    def get(self, request: bytes = b"", **how: Any) -> Any:
        return self.channel.unary_unary(f"/{SHOP}/Get")(request, **how)

    def list(self, request: bytes = b"", **how: Any) -> Any:
        return self.channel.unary_stream(f"/{SHOP}/List")(request, **how)

    def sum(self, requests: Any, **how: Any) -> Any:
        return self.channel.stream_unary(f"/{SHOP}/Sum")(requests, **how)

    def talk(self, requests: Any = None, **how: Any) -> Any:
        return self.channel.stream_stream(f"/{SHOP}/Talk")(requests, **how)

    async def call(self, kind: str, request: bytes, **how: Any) -> Any:
        """Make a call of one kind with one request, and return all that is answered."""
        if kind in ("get", "list"):
            call = getattr(self, kind)(request, **how)
        else:
            call = Ended(getattr(self, kind)(iter([request]), **how))
        return await call if kind in ("get", "sum") else [each async for each in call]


@pytest.fixture
async def served(make_app: Callable[..., App], orders: Orders) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """A function that serves the orders; settings of the stack are given by name."""
    async with AsyncExitStack() as stack:

        async def serve(authenticate: Any = None, app: App | None = None, **settings: Any) -> Served:
            found = app or make_app()
            server = serve_grpc(found, GrpcSettings(port=0, **settings), orders.register, authenticate=authenticate)
            stack.push_async_callback(server.stop)
            await server.start()
            found.health.started = True
            channel = connect(server.port)
            stack.push_async_callback(channel.close)
            return Served(found, server, channel)

        yield serve


Serve = Callable[..., Awaitable[Served]]
KINDS = ["get", "list", "sum", "talk"]
ID = (("x-request-id", "r-1"),)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


def rich(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the details of the rich status by their name."""
    [packed] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for detail in status.details:
        kind = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])()
        detail.Unpack(kind)
        found[type(kind).__name__] = kind
    return found


def counted(method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return REGISTRY.get_sample_value("grpc_server_call_duration_seconds_count", labels) or 0.0


# Context


async def test_the_callers_ids_go_on(served: Serve) -> None:
    metadata = (("x-request-id", "r-1"), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"))

    answer = (await (await served()).get(metadata=metadata)).decode()

    assert "request_id='r-1'" in answer
    assert f"trace_id='{TRACE}'" in answer


async def test_ids_of_who_is_not_trusted_are_made_anew(served: Serve) -> None:
    answer = await (await served(trust_context=False)).get(metadata=(("x-request-id", "r-1"),))

    assert b"r-1" not in answer


@pytest.mark.parametrize("kind", ["list", "sum", "talk"])
async def test_the_request_id_comes_back_with_a_stream(served: Serve, kind: str) -> None:
    service = await served()
    call = getattr(service, kind)(b"" if kind == "list" else iter([b""]), metadata=ID)
    if kind == "sum":
        await call
    else:
        assert [each async for each in call]

    assert list(await call.trailing_metadata()) == [*ID]


async def test_a_unary_call_that_succeeds_has_no_trailing_metadata_of_ours(served: Serve) -> None:
    call = (await served()).get(metadata=ID)

    assert b"request_id='r-1'" in await call
    assert list(await call.trailing_metadata()) == []


async def test_a_handlers_own_trailing_metadata_stays(served: Serve) -> None:
    call = (await served()).get(b"trailing", metadata=ID)
    await call

    assert list(await call.trailing_metadata()) == [("cost", "7")]


@pytest.mark.parametrize("what", [b"missing", b"broken", b"abort", b"code"])
async def test_a_unary_call_that_fails_carries_the_request_id(served: Serve, what: bytes) -> None:
    error = await failure((await served()).get(what, metadata=ID))

    assert dict(error.trailing_metadata() or ())["x-request-id"] == "r-1"


@pytest.mark.parametrize(("asked", "most"), [(None, 50), (30, 30), (60, 50)])
async def test_a_caller_may_ask_for_less_time_but_not_for_more(served: Serve, asked: float | None, most: float) -> None:
    service = await served(request_timeout=50)
    before = time.monotonic()
    answer = (await service.get(timeout=asked)).decode()
    deadline = float(answer.partition("deadline=")[2].partition(",")[0])

    # The time that is left goes over the wire rounded up: from ten seconds on, to a tenth of one.
    assert before + most - 0.01 < deadline < time.monotonic() + most + 0.11


async def test_without_a_limit_there_is_no_deadline(served: Serve) -> None:
    assert b"deadline=None" in await (await served(request_timeout=0)).get()


async def test_one_call_leaves_nothing_to_the_next(served: Serve) -> None:
    service = await served()
    await service.get(metadata=(("x-request-id", "r-1"),))

    assert b"r-1" not in await service.get()


# Errors


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_error_is_a_rich_status(served: Serve, kind: str) -> None:
    service = await served()
    error = await failure(service.call(kind, b"missing", metadata=(("x-request-id", "r-1"),)))

    found = rich(error)
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "There is no such order.")
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == ("NO_SUCH_ORDER", "orders")
    assert dict(found["ErrorInfo"].metadata) == {"code": "no-such-order", "http_status": "404"}
    assert found["RequestInfo"].request_id == "r-1"


async def test_wrong_fields_are_listed_by_path(served: Serve) -> None:
    error = await failure((await served()).get(b"wrong"))

    [wrong] = rich(error)["BadRequest"].field_violations
    assert (error.code(), wrong.field, wrong.description) == (
        StatusCode.INVALID_ARGUMENT, "items[0].quantity", "is too small",
    )  # fmt: skip


async def test_an_error_says_when_to_ask_again(served: Serve) -> None:
    error = await failure((await served()).get(b"limited"))

    metadata = dict(error.trailing_metadata() or ())
    assert rich(error)["RetryInfo"].retry_delay.seconds == 7
    assert (metadata["retry-after"], metadata["grpc-retry-pushback-ms"]) == ("7", "7000")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_error_tells_its_id_and_nothing_else(served: Serve, kind: str, logs: Any) -> None:
    error = await failure((await served()).call(kind, b"broken"))

    info = rich(error)["ErrorInfo"]
    line = logs.one("grpc.error")
    assert (error.code(), info.metadata["code"]) == (StatusCode.INTERNAL, "internal")
    assert line["error_id"] == info.metadata["error_id"]
    assert line["request_id"] == rich(error)["RequestInfo"].request_id
    assert "RuntimeError" in line["exception"]
    assert SECRET not in str(error) + logs.text


async def test_an_unknown_error_is_counted(served: Serve) -> None:
    def unhandled() -> float:
        return REGISTRY.get_sample_value("unhandled_errors_total", {"where": "grpc"}) or 0.0

    before = unhandled()
    await failure((await served()).get(b"broken"))

    assert unhandled() == before + 1


async def test_debug_shows_the_traceback(served: Serve, make_app: Callable[..., App]) -> None:
    error = await failure((await served(app=make_app(debug=True))).get(b"broken"))

    assert "RuntimeError" in rich(error)["DebugInfo"].detail


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handlers_own_abort_is_left_alone(served: Serve, kind: str, soon: Soon) -> None:
    before = counted(f"{SHOP}/{kind.title()}", "DATA_LOSS")
    error = await failure((await served()).call(kind, b"abort"))

    assert (error.code(), error.details()) == (StatusCode.DATA_LOSS, "of its own")
    await soon(lambda: counted(f"{SHOP}/{kind.title()}", "DATA_LOSS") == before + 1)


async def test_unknown_methods_are_one_to_the_metrics_and_the_log(served: Serve, logs: Any, soon: Soon) -> None:
    service = await served()
    before = counted("<unmatched>", "UNIMPLEMENTED")
    for method in (f"/{SHOP}/Nothing", "/no.Such/Service"):
        assert (await failure(service.channel.unary_unary(method)(b""))).code() == StatusCode.UNIMPLEMENTED

    await soon(lambda: counted("<unmatched>", "UNIMPLEMENTED") == before + 2)
    assert {line["method"] for line in logs.lines if line["event"] == "grpc.call"} == {"<unmatched>"}


async def test_a_message_above_the_limit_is_refused(served: Serve) -> None:
    service = await served(message_limit=100)

    assert (await failure(service.get(b"x" * 101))).code() == StatusCode.RESOURCE_EXHAUSTED


async def test_a_handler_that_is_not_async_is_refused_at_once(make_app: Callable[..., App]) -> None:
    def register(server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
        server.add_registered_method_handlers(SHOP, handlers)

    with pytest.raises(TypeError, match=r"shop.v1.Orders/Get .*async def"):
        serve_grpc(make_app(), GrpcSettings(), register)


# Deadlines, limits, who calls


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_takes_too_long_ends(served: Serve, orders: Orders, kind: str) -> None:
    service = await served(request_timeout=0.02, stream_timeout=0.02)
    error = await failure(service.call(kind, b"wait"))

    assert error.code() == StatusCode.DEADLINE_EXCEEDED
    assert rich(error)["ErrorInfo"].reason == "DEADLINE_EXCEEDED"
    assert orders.cancelled.is_set()


async def test_a_handler_is_ended_when_its_caller_has_no_time_left(served: Serve, orders: Orders, soon: Soon) -> None:
    service = await served()
    before = counted(f"{SHOP}/Get", "DEADLINE_EXCEEDED")
    assert (await failure(service.get(b"wait", timeout=0.1))).code() == StatusCode.DEADLINE_EXCEEDED

    await soon(orders.cancelled.is_set)
    await soon(lambda: counted(f"{SHOP}/Get", "DEADLINE_EXCEEDED") == before + 1)


async def test_a_handler_is_ended_when_its_caller_leaves(served: Serve, orders: Orders, soon: Soon) -> None:
    service = await served()
    before = counted(f"{SHOP}/Get", "CANCELLED")
    call = service.get(b"wait")
    await orders.reached.wait()
    call.cancel()

    await soon(orders.cancelled.is_set)
    await soon(lambda: counted(f"{SHOP}/Get", "CANCELLED") == before + 1)


async def test_a_stream_that_is_left_half_way_is_counted(served: Serve, orders: Orders, soon: Soon) -> None:
    service = await served()
    before = counted(f"{SHOP}/List", "CANCELLED")
    call = service.list(b"wait")
    assert await call.read() == b"first"
    await orders.reached.wait()
    call.cancel()

    await soon(lambda: counted(f"{SHOP}/List", "CANCELLED") == before + 1)


async def test_calls_above_the_limit_are_refused_and_health_is_not(served: Serve, orders: Orders) -> None:
    service = await served(max_calls=1)
    first = service.get(b"wait")
    await orders.reached.wait()

    error = await failure(service.get())
    assert (error.code(), rich(error)["ErrorInfo"].metadata["code"]) == (StatusCode.UNAVAILABLE, "overloaded")
    assert await health(service) == health_pb2.HealthCheckResponse.SERVING
    orders.open.set()
    await first


async def authenticate(value: str) -> object:
    if value != "Bearer ada's":
        raise Unauthenticated("Send a token.")
    return "ada"


@pytest.mark.parametrize("kind", ["get", "list"])
async def test_the_principal_is_who_the_hook_says(served: Serve, kind: str) -> None:
    service = await served(authenticate)
    answer = await service.call(kind, b"", metadata=(("authorization", "Bearer ada's"),))

    assert b"principal='ada'" in (answer if kind == "get" else answer[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sent", [(), ("Bearer bob's",), ("Bearer ada's", "Bearer ada's")])
async def test_who_is_not_known_is_refused(served: Serve, kind: str, sent: tuple[str, ...]) -> None:
    service = await served(authenticate)
    error = await failure(service.call(kind, b"", metadata=tuple(("authorization", value) for value in sent)))

    assert (error.code(), rich(error)["ErrorInfo"].reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


# Log and metrics


async def test_a_call_is_one_line(served: Serve, logs: Any) -> None:
    await (await served()).get(metadata=(("x-request-id", "r-1"),))

    line = logs.one("grpc.call")
    assert (line["method"], line["code"], line["request_id"]) == (f"{SHOP}/Get", "OK", "r-1")
    assert line["duration_ms"] > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_are_counted_by_method_and_code(served: Serve, kind: str, soon: Soon) -> None:
    service, method = await served(), f"{SHOP}/{kind.title()}"
    before = counted(method, "OK"), counted(method, "NOT_FOUND")
    await service.call(kind, b"")
    await failure(service.call(kind, b"missing"))

    await soon(lambda: (counted(method, "OK"), counted(method, "NOT_FOUND")) == (before[0] + 1, before[1] + 1))


async def test_log_and_metrics_can_be_turned_off(served: Serve, logs: Any) -> None:
    before = counted(f"{SHOP}/Get", "OK")
    await (await served(access_log=False, metrics=False)).get()

    assert counted(f"{SHOP}/Get", "OK") == before
    assert "grpc.call" not in logs.text


# Health and reflection


async def health(service: Served, name: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


@pytest.mark.parametrize("name", ["", SHOP])
async def test_health_follows_readiness(served: Serve, name: str) -> None:
    service = await served()
    assert await health(service, name) == health_pb2.HealthCheckResponse.SERVING

    service.app.health.draining = True
    assert await health(service, name) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_service_that_starts_or_misses_something_is_not_serving(
    served: Serve, make_app: Callable[..., App]
) -> None:
    app = make_app()

    async def check() -> None:
        raise OSError

    app.health.add("database", check)
    service = await served(app=app)
    assert await health(service) == health_pb2.HealthCheckResponse.NOT_SERVING

    other = await served()
    other.app.health.started = False
    assert await health(other) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_health_of_what_is_not_here_is_not_found(served: Serve) -> None:
    assert (await failure(health(await served(), "no.Such"))).code() == StatusCode.NOT_FOUND


async def test_a_watcher_is_told_of_changes_and_let_go_at_the_end(served: Serve) -> None:
    service = await served()
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    seen = [int((await watch.read()).status)]
    service.app.health.draining = True
    seen.append(int((await watch.read()).status))
    async with asyncio.timeout(20):
        await service.server.drain()

    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert await watch.read() == grpc.aio.EOF


async def test_health_needs_no_token_and_leaves_no_line(served: Serve, logs: Any) -> None:
    await health(await served(authenticate))

    assert "grpc.call" not in logs.text


@pytest.mark.parametrize("on", [True, False])
async def test_reflection_tells_the_services_where_it_is_on(served: Serve, on: bool) -> None:
    service = await served(reflection=on)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    if on:
        [answer] = [each async for each in call]
        assert SHOP in {each.name for each in answer.list_services_response.service}
    else:
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await call.read()


# Starting, draining, stopping


async def test_a_taken_port_is_a_start_error_that_names_the_setting(
    served: Serve, make_app: Callable[..., App]
) -> None:
    taken = (await served()).server.port

    with pytest.raises(StartError, match=f"127.0.0.1:{taken} .*GRPC_PORT"):
        await serve_grpc(make_app(), GrpcSettings(port=taken)).start()


async def test_an_address_of_another_machine_is_a_start_error(make_app: Callable[..., App], free_port: int) -> None:
    with pytest.raises(StartError, match="GRPC_HOST"):
        await serve_grpc(make_app(), GrpcSettings(host="203.0.113.1", port=free_port)).start()


async def test_ipv6_can_be_listened_on(served: Serve) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        missing("this machine has no address ::1")
    service = await served(host="::1")
    async with connect(service.server.port, "[::1]") as channel:
        assert await channel.unary_unary(f"/{SHOP}/Get")(b"")


async def refusal(channel: Any) -> StatusCode:
    """Return the code of the first call that is refused."""
    while True:
        try:
            await channel.unary_unary(f"/{SHOP}/Get")(b"")
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_a_drain_finishes_calls_of_every_kind_and_refuses_new_ones(served: Serve, orders: Orders) -> None:
    service = await served()
    calls = [asyncio.create_task(service.call(kind, b"wait")) for kind in KINDS]
    while len(service.server._stack.tasks) < len(KINDS):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    drain = asyncio.create_task(service.server.drain())
    async with connect(service.server.port) as other:
        # grpc's core cancels what has just arrived.
        assert await refusal(other) in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
    assert not drain.done()
    orders.open.set()
    async with asyncio.timeout(20):
        await drain

    get, listed, summed, talked = await asyncio.gather(*calls)
    assert (listed[0], summed, talked) == (b"first", b"1", [b"wait"])
    assert b"request_id" in get


async def test_stop_ends_calls_at_once_and_tells_their_callers_to_ask_again(served: Serve, orders: Orders) -> None:
    service = await served()
    calls = [asyncio.create_task(failure(service.call(kind, b"wait"))) for kind in KINDS]
    while len(service.server._stack.tasks) < len(KINDS):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await service.server.stop()

    assert {error.code() for error in await asyncio.gather(*calls)} == {StatusCode.UNAVAILABLE}
    assert orders.cancelled.is_set()


async def test_a_server_that_never_started_can_be_stopped(make_app: Callable[..., App]) -> None:
    server = serve_grpc(make_app(), GrpcSettings(port=0))

    await server.drain()
    await server.stop()


async def test_the_app_owns_the_server(make_app: Callable[..., App], orders: Orders) -> None:
    app = make_app()
    server = app.add(serve_grpc(app, GrpcSettings(port=0), orders.register))
    await app.start()
    async with connect(server.port) as channel:
        assert await channel.unary_unary(f"/{SHOP}/Get")(b"")

    assert await app.stop(delay=0)


async def test_the_status_is_the_one_that_grpcs_own_library_reads(served: Serve) -> None:
    call = (await served()).get(b"missing")
    await failure(call)
    found = await rpc_status.aio.from_call(call)

    assert found is not None
    assert found.code == StatusCode.NOT_FOUND.value[0]
