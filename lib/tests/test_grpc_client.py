"""Channels to other services: context, deadline, errors, retries, breaker, metrics, balancing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from marty_lib import (
    App,
    Breaker,
    DeadlineExceeded,
    FieldError,
    GrpcServer,
    GrpcSettings,
    NotFound,
    ServiceError,
    Unavailable,
    context,
    create_channel,
    serve_grpc,
)
from marty_lib._grpc_client import service_config
from marty_lib.testing import Clock, FaultyServer
from prometheus_client import REGISTRY

Soon = Callable[[Callable[[], object]], Awaitable[None]]
STOCK = "stock.v1.Stock"
KINDS = ["Get", "List", "Sum", "Talk"]


class Stock:
    """The other service: fails as often as it is told to, and tells what it has been sent."""

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.seen: dict[str, Any] = {}
        self.left: float | None = None

    async def get(self, request: bytes, rpc: Any) -> bytes:
        await self._answer(request, rpc)
        return request

    async def list(self, request: bytes, rpc: Any) -> AsyncIterator[bytes]:
        await self._answer(request, rpc)
        yield request
        yield request

    async def sum(self, requests: AsyncIterator[bytes], rpc: Any) -> bytes:
        found = []
        async for each in requests:
            await self._answer(each, rpc)
            found.append(each)
        return b"+".join(found)

    async def talk(self, requests: AsyncIterator[bytes], rpc: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            await self._answer(each, rpc)
            yield each
            if each == b"enough":
                return

    async def _answer(self, request: bytes, rpc: Any) -> None:
        self.calls += 1
        self.seen = dict(rpc.invocation_metadata())
        self.left = context.remaining()
        if self.failures:
            self.failures -= 1
            raise Unavailable
        match request:
            case b"missing":
                raise NotFound(
                    "There is no such thing.", code="no-such-thing", errors=[FieldError("/id", "is unknown")]
                )
            case b"broken":
                raise RuntimeError
            case b"wait":
                await asyncio.Event().wait()

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {
            "Get": grpc.unary_unary_rpc_method_handler(self.get),
            "List": grpc.unary_stream_rpc_method_handler(self.list),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }
        server.add_registered_method_handlers(STOCK, handlers)


class Remote:
    """The other service as its client sees it."""

    def __init__(self, stock: Stock, server: GrpcServer, channel: Any) -> None:
        self.stock = stock
        self.server = server
        self.channel = channel

    async def call(self, kind: str, request: bytes = b"a", **how: Any) -> Any:
        """Make a call of one kind with one request; return the last answer."""
        channel, path = self.channel, f"/{STOCK}/{kind}"
        match kind:
            case "Get":
                return await channel.unary_unary(path)(request, **how)
            case "List":
                return [each async for each in channel.unary_stream(path)(request, **how)][-1]
            case _:
                return await self.send(kind, iter([request]), **how)

    async def send(self, kind: str, requests: Any, **how: Any) -> Any:
        """Make a call with a stream of requests; return the last answer."""
        path = f"/{STOCK}/{kind}"
        if kind == "Sum":
            return await self.channel.stream_unary(path)(requests, **how)
        return [each async for each in self.channel.stream_stream(path)(requests, **how)][-1]


@pytest.fixture
async def remote(make_app: Callable[..., App]) -> AsyncIterator[Callable[..., Awaitable[Remote]]]:
    """A function that starts the other service and opens a channel to it; the channel's arguments are given by name."""
    async with AsyncExitStack() as stack:

        async def start(**how: Any) -> Remote:
            stock, app = Stock(), make_app()
            server = serve_grpc(app, GrpcSettings(port=0), stock.register)
            await server.start()
            stack.push_async_callback(server.stop)
            app.health.started = True
            channel = create_channel(f"127.0.0.1:{server.port}", name="stock", **how)
            stack.push_async_callback(channel.close)
            return Remote(stock, server, channel)

        yield start


Start = Callable[..., Awaitable[Remote]]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
async def test_a_call_is_answered(remote: Start, kind: str) -> None:
    assert await (await remote()).call(kind) == b"a"


# Context and deadline


@every_kind
async def test_the_context_goes_along(remote: Start, kind: str) -> None:
    service = await remote()
    request = context.RequestContext("r-1", "4" * 32, "5" * 16, tracestate="vendor=1")
    with context.use(request):
        await service.call(kind, metadata=(("authorization", "Bearer ada's"),))

    assert service.stock.seen.items() >= {
        "x-request-id": "r-1", "traceparent": f"00-{'4' * 32}-{'5' * 16}-00", "tracestate": "vendor=1",
        "authorization": "Bearer ada's",
    }.items()  # fmt: skip
    assert "x-request-timeout" not in service.stock.seen


async def test_outside_of_any_work_nothing_is_made_up(remote: Start) -> None:
    service = await remote()
    await service.call("Get")

    assert not {"x-request-id", "traceparent"} & service.stock.seen.keys()


@pytest.mark.parametrize(
    ("channels", "calls", "works", "most"),
    [(25, None, None, 25), (25, 15, None, 15), (25, 35, None, 30), (25, None, 15, 15), (25, 20, 10, 10)],
)
async def test_the_least_time_of_all_is_the_calls(
    remote: Start, channels: float, calls: float | None, works: float | None, most: float
) -> None:
    service = await remote(timeout=channels)
    deadline = None if works is None else time.monotonic() + works
    with context.use(context.new(deadline=deadline)):
        await service.call("Get", timeout=calls)

    assert service.stock.left is not None
    # It goes over the wire rounded up: from ten seconds on, to a tenth of one.
    assert service.stock.left <= most + 0.11


async def test_work_whose_time_is_over_asks_nobody(remote: Start) -> None:
    service = await remote()
    with context.use(context.new(deadline=time.monotonic() - 1)), pytest.raises(DeadlineExceeded):
        await service.call("Get")

    assert service.stock.calls == 0


@every_kind
async def test_a_call_that_takes_too_long_is_the_librarys_error(remote: Start, kind: str) -> None:
    with pytest.raises(DeadlineExceeded):
        await (await remote(timeout=0.1)).call(kind, b"wait")


# Errors


@every_kind
async def test_an_error_of_the_other_service_is_the_librarys_with_all_details(remote: Start, kind: str) -> None:
    with pytest.raises(NotFound) as failed:
        await (await remote()).call(kind, b"missing")

    assert (failed.value.code, failed.value.detail) == ("no-such-thing", "There is no such thing.")
    assert failed.value.errors == (FieldError("/id", "is unknown"),)
    assert isinstance(failed.value.__cause__, grpc.aio.AioRpcError)


@every_kind
async def test_an_internal_error_of_the_other_service_is_one_here(remote: Start, kind: str) -> None:
    with pytest.raises(ServiceError) as failed:
        await (await remote()).call(kind, b"broken")

    assert type(failed.value) is ServiceError


async def test_nobody_there_is_unavailable(free_port: int) -> None:
    channel: Any = create_channel(f"127.0.0.1:{free_port}", name="stock")
    with pytest.raises(Unavailable):
        await channel.unary_unary(f"/{STOCK}/Get")(b"")
    await channel.close()


@pytest.mark.parametrize("fault", ["hang", "reset", "garbage"])
async def test_a_server_that_misbehaves_fails_within_the_time(
    faulty_server: Callable[..., FaultyServer], fault: str
) -> None:
    async with faulty_server(fault) as server:
        channel: Any = create_channel(f"127.0.0.1:{server.port}", name="stock", timeout=0.5)
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await channel.unary_unary(f"/{STOCK}/Get")(b"")
        await channel.close()


# Calls that are written and read step by step


async def test_requests_can_be_written_one_by_one(remote: Start) -> None:
    service = await remote()
    call = service.channel.stream_unary(f"/{STOCK}/Sum")()
    for part in (b"a", b"b"):
        await call.write(part)
    await call.done_writing()

    assert await call == b"a+b"
    assert await call.code() == StatusCode.OK


async def test_a_conversation_can_be_led_step_by_step(remote: Start) -> None:
    service = await remote()
    call = service.channel.stream_stream(f"/{STOCK}/Talk")()
    for part in (b"a", b"b"):
        await call.write(part)
        assert await call.read() == part
    await call.done_writing()

    assert await call.read() == grpc.aio.EOF


# grpc loses the server's word only when a message meets the end of the call: in some 5 of 100 of these.
MEETINGS = 300


async def parts(first: bytes) -> AsyncIterator[bytes]:
    """Yield requests that are still sent when the server has ended the call."""
    yield first
    for _ in range(3):
        await asyncio.sleep(0)
        yield b"late"


@pytest.mark.parametrize("kind", ["Sum", "Talk"])
async def test_a_call_refused_while_its_requests_are_sent_fails_as_the_server_said(remote: Start, kind: str) -> None:
    service = await remote()
    for _ in range(MEETINGS):
        with pytest.raises(NotFound) as failed:
            await service.send(kind, parts(b"missing"))
        assert failed.value.errors == (FieldError("/id", "is unknown"),)


async def test_a_conversation_the_server_ends_early_is_no_failure(remote: Start) -> None:
    service = await remote()
    for _ in range(MEETINGS):
        assert await service.send("Talk", parts(b"enough")) == b"enough"


async def test_a_call_that_is_cancelled_ends_on_both_sides(remote: Start, soon: Soon) -> None:
    service = await remote()
    task = asyncio.create_task(service.call("Get", b"wait"))
    await soon(lambda: service.stock.calls == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await soon(lambda: not service.server._stack.tasks)


# Retries


async def test_a_safe_call_is_sent_again(remote: Start) -> None:
    service = await remote(safe=[f"{STOCK}/Get"])
    service.stock.failures = 2

    assert await service.call("Get") == b"a"
    assert service.stock.calls == 3


@pytest.mark.parametrize("safe", [[], [f"{STOCK}/List"], ["other.v1.Stock"]])
async def test_another_is_not(remote: Start, safe: list[str]) -> None:
    service = await remote(safe=safe)
    service.stock.failures = 1

    with pytest.raises(Unavailable):
        await service.call("Get")
    assert service.stock.calls == 1


async def test_all_methods_of_a_service_can_be_safe(remote: Start) -> None:
    service = await remote(safe=[STOCK])
    service.stock.failures = 1

    assert await service.call("Get") == b"a"


async def test_what_the_other_service_refuses_is_not_sent_again(remote: Start) -> None:
    service = await remote(safe=[STOCK])
    with pytest.raises(NotFound):
        await service.call("Get", b"missing")

    assert service.stock.calls == 1


def test_retries_are_throttled_and_calls_go_round() -> None:
    config = service_config([STOCK])

    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["retryThrottling"]["tokenRatio"] < 1
    assert "methodConfig" not in service_config([])


# Breaker


@every_kind
async def test_failures_in_a_row_end_the_asking(remote: Start, clock: Clock, kind: str) -> None:
    breaker = Breaker("stock", threshold=2, pause=10, clock=clock)
    service = await remote(breaker=breaker)
    for _ in range(2):
        with pytest.raises(ServiceError):
            await service.call(kind, b"broken")
    with pytest.raises(Unavailable) as refused:
        await service.call(kind)
    assert (refused.value.code, service.stock.calls) == ("circuit-open", 2)

    clock.advance(10)
    assert await service.call(kind) == b"a"


async def test_the_other_service_may_refuse_as_often_as_it_likes(remote: Start, clock: Clock) -> None:
    breaker = Breaker("stock", threshold=2, clock=clock)
    service = await remote(breaker=breaker)
    for _ in range(5):
        with pytest.raises(NotFound):
            await service.call("Get", b"missing")

    assert breaker.state == "closed"


# Metrics


@every_kind
async def test_calls_are_counted_by_service_method_and_code(remote: Start, kind: str) -> None:
    def counted(code: str) -> float:
        labels = {"service": "stock", "method": f"{STOCK}/{kind}", "code": code}
        return REGISTRY.get_sample_value("grpc_client_call_duration_seconds_count", labels) or 0.0

    before = counted("OK"), counted("NOT_FOUND")
    service = await remote()
    await service.call(kind)
    with pytest.raises(NotFound):
        await service.call(kind, b"missing")

    assert (counted("OK"), counted("NOT_FOUND")) == (before[0] + 1, before[1] + 1)


# Several servers


async def test_calls_go_round_all_servers_and_leave_one_that_drains(make_app: Callable[..., App], soon: Soon) -> None:
    async with AsyncExitStack() as stack:
        stocks, apps, servers = [Stock(), Stock()], [make_app(), make_app()], []
        for stock, app in zip(stocks, apps, strict=True):
            server = serve_grpc(app, GrpcSettings(port=0), stock.register)
            await server.start()
            stack.push_async_callback(server.stop)
            app.health.started = True
            servers.append(server)
        target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        channel: Any = create_channel(target, name="stock")
        stack.push_async_callback(channel.close)

        async def call() -> None:
            await channel.unary_unary(f"/{STOCK}/Get")(b"a")

        async with asyncio.timeout(20):
            while not all(stock.calls for stock in stocks):
                await call()
        apps[0].health.draining = True
        # Its health says so, and the client, which watches it, asks it no more.
        async with asyncio.timeout(20):
            before = -1
            while before != stocks[0].calls:
                before = stocks[0].calls
                for _ in range(20):
                    await call()
                await asyncio.sleep(0.05)
        assert stocks[1].calls > 20
