"""Spans of what is handled: one for each event whose trace is sampled, below the span that led to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from marty_lib import OtelSettings, context
from marty_lib._sampling import Sampled
from marty_lib.events import Event
from marty_lib.tracing import Tracing
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from .event_kit import Kit, Placed, kit_of, until


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(exporter: InMemorySpanExporter) -> Tracing:
    tracing = Tracing(OtelSettings(), name="orders", version="1", environment="development")
    tracing.provider = TracerProvider(sampler=Sampled(0), shutdown_on_exit=False)
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    return tracing


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with kit_of("memory://", "") as found:
        yield found


async def handle(kit: Kit, tracing: Tracing, *, sampled: bool, fails: bool = False) -> list[context.RequestContext]:
    """Have an event handled whose trace is sampled or not; return the handler's contexts."""
    events = await kit.events(attempts=1, retry_delays="")
    consumer, seen = kit.consumer(events, tracing=tracing), list[context.RequestContext]()

    @consumer.on(kit.placed)
    async def placed(event: Event, order: Placed) -> None:
        current = context.current()
        assert current is not None
        seen.append(current)
        assert trace.get_current_span().get_span_context().span_id == int(current.span_id, 16)
        if fails:
            raise RuntimeError("a bug")

    await kit.started(consumer)
    with context.use(context.RequestContext("r-1", "4" * 32, "5" * 16, sampled=sampled)):
        event = kit.event(1)
    await events.publish(event)
    await until(lambda: seen and not consumer.in_flight)
    return seen


async def test_an_event_of_a_sampled_trace_has_a_span(
    kit: Kit, traced: Tracing, exporter: InMemorySpanExporter
) -> None:
    [seen] = await handle(kit, traced, sampled=True)

    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind, span.status.is_ok) == ("process order.placed", trace.SpanKind.CONSUMER, True)
    assert span.parent is not None
    assert (f"{span.parent.span_id:016x}", f"{span.context.trace_id:032x}") == ("5" * 16, "4" * 32)
    assert seen.span_id == f"{span.context.span_id:016x}"
    assert seen.deadline is not None


async def test_an_event_of_another_trace_has_none(kit: Kit, traced: Tracing, exporter: InMemorySpanExporter) -> None:
    [seen] = await handle(kit, traced, sampled=False)

    assert exporter.get_finished_spans() == ()
    assert seen.trace_id == "4" * 32


async def test_a_failure_is_on_the_span(kit: Kit, traced: Tracing, exporter: InMemorySpanExporter) -> None:
    await handle(kit, traced, sampled=True, fails=True)

    [span] = exporter.get_finished_spans()
    assert not span.status.is_ok
