"""Spans of calls, in and out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from marty_lib import App, GrpcSettings, NotFound, Unavailable, context, create_channel, serve_grpc
from marty_lib._sampling import Sampled
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)


class Traced:
    """A service whose spans stay here, and a channel to it; its calls tell of their context."""

    def __init__(self, app: App, share: float) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=Sampled(share), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        app.tracing.provider = self.provider
        self.channel: Any = None

    async def get(self, request: bytes, _: Any) -> bytes:
        with self.provider.get_tracer("orders").start_as_current_span("inner"):
            match request:
                case b"missing":
                    raise NotFound
                case b"down":
                    raise Unavailable
            return context.outgoing_headers()["traceparent"].encode()

    async def list(self, request: bytes, rpc: Any) -> AsyncIterator[bytes]:
        yield await self.get(request, rpc)

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {
            "Get": grpc.unary_unary_rpc_method_handler(self.get),
            "List": grpc.unary_stream_rpc_method_handler(self.list),
        }
        server.add_registered_method_handlers("shop.v1.Orders", handlers)

    async def call(self, request: bytes = b"", metadata: Any = ()) -> str:
        answer = await self.channel.unary_unary("/shop.v1.Orders/Get")(request, metadata=metadata)
        return str(answer.decode())

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return tuple(self.exporter.get_finished_spans())

    def span(self, kind: trace.SpanKind) -> ReadableSpan:
        [found] = [span for span in self.spans if span.kind is kind]
        return found


@pytest.fixture
async def traced(make_app: Callable[..., App]) -> AsyncIterator[Callable[..., Awaitable[Traced]]]:
    """A function that serves a traced service, with the share of traces to record."""
    async with AsyncExitStack() as stack:

        async def start(share: float, make_channel: Any = grpc.aio.insecure_channel, **settings: Any) -> Traced:
            app = make_app(otel={"traces_sampler_arg": share})
            app.health.started = True
            service = Traced(app, share)
            server = serve_grpc(app, GrpcSettings(port=0, **settings), service.register)
            await server.start()
            stack.push_async_callback(server.stop)
            service.channel = make_channel(f"127.0.0.1:{server.port}")
            stack.push_async_callback(service.channel.close)
            return service

        yield start


Start = Callable[..., Awaitable[Traced]]
Soon = Callable[[Callable[[], object]], Awaitable[None]]


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


async def test_a_sampled_call_is_a_span_of_the_callers_trace(traced: Start) -> None:
    service = await traced(0)
    answer = await service.call(metadata=SAMPLED)

    span = service.span(trace.SpanKind.SERVER)
    assert span.parent is not None
    assert (ids(span)[0], f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert answer == f"00-{TRACE}-{ids(span)[1]}-01"
    assert span.name == "shop.v1.Orders/Get"
    assert span.attributes == {
        "rpc.system": "grpc", "rpc.method": "shop.v1.Orders/Get", "rpc.grpc.status_code": "OK",
    }  # fmt: skip


async def test_spans_inside_a_call_are_children_of_its_span(traced: Start) -> None:
    service = await traced(0)
    await service.call(metadata=SAMPLED)

    inner, outer = service.span(trace.SpanKind.INTERNAL), service.span(trace.SpanKind.SERVER)
    assert inner.parent == outer.context


async def test_a_stream_is_a_span_too(traced: Start, soon: Soon) -> None:
    service = await traced(0)
    call = service.channel.unary_stream("/shop.v1.Orders/List")(b"", metadata=SAMPLED)
    assert [each async for each in call]

    await soon(lambda: len(service.spans) == 2)
    assert service.span(trace.SpanKind.INTERNAL).parent == service.span(trace.SpanKind.SERVER).context


@pytest.mark.parametrize(("share", "metadata"), [(1, UNSAMPLED), (0, ()), (0, (("traceparent", "00-nonsense-01"),))])
async def test_an_unsampled_call_and_what_is_inside_it_are_no_spans(traced: Start, share: float, metadata: Any) -> None:
    service = await traced(share)

    assert (await service.call(metadata=metadata)).endswith("-00")
    assert service.spans == ()


async def test_a_call_without_a_trace_is_sampled_by_share(traced: Start) -> None:
    service = await traced(1)
    answer = await service.call()

    assert answer.split("-")[1:3] == list(ids(service.span(trace.SpanKind.SERVER)))


async def test_the_trace_of_who_is_not_trusted_is_ignored(traced: Start) -> None:
    service = await traced(0, trust_context=False)

    assert TRACE not in await service.call(metadata=SAMPLED)
    assert service.spans == ()


@pytest.mark.parametrize(
    ("request_", "code", "fault"), [(b"missing", "NOT_FOUND", False), (b"down", "UNAVAILABLE", True)]
)
async def test_a_span_fails_where_the_service_is_at_fault(
    traced: Start, soon: Soon, request_: bytes, code: str, fault: bool
) -> None:
    service = await traced(0)
    with pytest.raises(grpc.aio.AioRpcError):
        await service.call(request_, SAMPLED)

    await soon(lambda: len(service.spans) == 2)
    span = service.span(trace.SpanKind.SERVER)
    assert (span.attributes or {})["rpc.grpc.status_code"] == code
    assert (span.status.status_code is trace.StatusCode.ERROR) == fault


async def test_one_call_leaves_nothing_to_the_next(traced: Start) -> None:
    service = await traced(0)
    await service.call(metadata=SAMPLED)
    before = len(service.spans)

    assert TRACE not in await service.call()
    assert len(service.spans) == before


async def test_a_call_to_another_service_is_a_span_whose_child_is_there(
    traced: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await traced(0, lambda target: create_channel(target, name="orders"))
    monkeypatch.setattr(trace, "get_tracer", service.provider.get_tracer)
    tracer = service.provider.get_tracer("here")
    parent = trace.NonRecordingSpan(trace.SpanContext(int(TRACE, 16), int(SPAN, 16), True, trace.TraceFlags(1)))
    request = context.RequestContext("r-1", TRACE, SPAN, sampled=True)
    with context.use(request), trace.use_span(parent), tracer.start_as_current_span("work"):
        await service.call()

    asked, answered = service.span(trace.SpanKind.CLIENT), service.span(trace.SpanKind.SERVER)
    assert answered.parent is not None
    assert asked.context is not None
    assert (ids(answered)[0], answered.parent.span_id) == (TRACE, asked.context.span_id)


async def test_a_call_of_an_unsampled_request_is_no_span(traced: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await traced(1, lambda target: create_channel(target, name="orders"))
    monkeypatch.setattr(trace, "get_tracer", service.provider.get_tracer)
    with context.use(context.RequestContext("r-1", TRACE, SPAN)):
        await service.call()

    assert service.spans == ()
