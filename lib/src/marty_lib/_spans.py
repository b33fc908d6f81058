"""Spans of what neither FastAPI nor another library makes spans for. As everywhere: none where it is not sampled."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from marty_lib import context, tracing
from marty_lib.context import TRACEPARENT, RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


def serve(
    provider: TracerProvider, share: float, request: RequestContext, carried: Mapping[str, str], name: str
) -> tuple[RequestContext, Any]:
    """Make the span of work that somebody asked for, for as long as the task lasts.

    Args:
        provider: makes the span.
        share: of the traces begun here that is recorded, from 0 to 1.
        request: the context of the work.
        carried: `traceparent` and `tracestate` as they came.
        name: of the span.

    Returns:
        The context with the span's ids, and the span, or None where it is not sampled.
    """
    parented = request.trace_id in carried.get(TRACEPARENT, "")
    if not (request.sampled if parented else random.random() < share):
        return tracing.bind(request._replace(sampled=False))[0], None
    from opentelemetry import context as otel
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(carried, otel.Context()) if parented else otel.Context()
    span = provider.get_tracer("marty").start_span(name, parent, trace.SpanKind.SERVER)
    otel.attach(trace.set_span_in_context(span, otel.get_current()))
    return tracing.bind(request._replace(sampled=True))[0], span


def consume(
    provider: TracerProvider, request: RequestContext, carried: Mapping[str, str], name: str
) -> tuple[RequestContext, Any, Any]:
    """Make the span of a message's handling, where the trace that it came with is sampled.

    Args:
        provider: makes the span.
        request: the context of the handling.
        carried: `traceparent` and `tracestate` as they came.
        name: of the span.

    Returns:
        The context with the span's ids, the span or None, and a token for `tracing.release`.
    """
    if not request.sampled:
        bound, token = tracing.bind(request)
        return bound, None, token
    from opentelemetry import context as otel
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(carried, otel.Context())
    span = provider.get_tracer("marty").start_span(name, parent, trace.SpanKind.CONSUMER)
    token = otel.attach(trace.set_span_in_context(span, otel.get_current()))
    return tracing.bind(request)[0], span, token


def ask(name: str) -> tuple[Any, dict[str, str]]:
    """Make the span of work that another service does for the request under way.

    Args:
        name: of the span.

    Returns:
        The span, or None where the request is not sampled, and the headers that the other service gets.
    """
    headers = context.outgoing_headers()
    if not wanted():
        return None, headers
    from opentelemetry import trace

    span = trace.get_tracer("marty").start_span(name, kind=trace.SpanKind.CLIENT)
    made = span.get_span_context()
    if not made.is_valid:
        return None, headers
    return span, headers | {TRACEPARENT: f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags:02x}"}


def wanted() -> bool:
    """Return whether the request under way is sampled."""
    request = context.current()
    return request is not None and request.sampled


def tell(name: str, seconds: float, *, failed: bool = False, **attributes: str) -> None:
    """Make the span of what a database or cache has just done for a sampled request.

    Args:
        name: of the span.
        seconds: that it has taken.
        failed: whether it came to nothing.
        attributes: of the span, dots written as two underscores.
    """
    if (trace := _trace()) is not None:
        start = time.time_ns() - round(seconds * 1e9)
        span = trace.get_tracer("marty").start_span(name, kind=trace.SpanKind.CLIENT, start_time=start)
        end(span, failed=failed, **attributes)


@cache
def _trace() -> Any:
    """Return OpenTelemetry's API, or None: a request can be sampled by its caller where it is not installed."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


def end(span: Any, *, failed: bool, **attributes: str) -> None:
    """End a span.

    Args:
        span: of `serve`, `consume` or `ask`.
        failed: whether it is the fault of the service.
        attributes: of the span, dots written as two underscores.
    """
    from opentelemetry.trace import StatusCode

    span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})
    if failed:
        span.set_status(StatusCode.ERROR)
    span.end()
