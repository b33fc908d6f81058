"""Traces over OTLP, decided on before the SDK makes a span.

Spans are dear, so a trace that is not sampled costs only its context. The decision is the caller's where the request
carries one, else a share of `OTEL_TRACES_SAMPLER_ARG`. FastAPI makes the server spans; OpenTelemetry's SDK and
exporter are imported only where an endpoint is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from marty_lib import context
from marty_lib.errors import StartError
from marty_lib.settings import OtelSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SCOPE_KEY = "marty.context"
_CALLERS = context.CARRIED | {b"baggage"}


class Tracing:
    """The component that owns the tracer provider.

    Args:
        settings: endpoint, headers and share of traces.
        name: of the service.
        version: of the service.
        environment: it runs in.
    """

    def __init__(self, settings: OtelSettings, *, name: str, version: str, environment: str) -> None:
        self.name = "tracing"
        self._share = settings.traces_sampler_arg
        self.provider = _provider(settings, name, version, environment) if settings.exporter_otlp_endpoint else None

    def telemetry(self, *, trust: bool) -> Any:
        """Return FastAPI's `telemetry` argument: its spans for sampled requests, and nothing else of it.

        Args:
            trust: take the context from the caller's headers.
        """
        return {
            "tracing": self.provider is not None,
            "tracer_provider": self.provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": partial(self.leave_out, trust=trust) if self.provider else None,
        }

    def leave_out(self, scope: Any, *, trust: bool) -> bool:
        """Return whether this request gets no span; its context is left in the scope for the HTTP stack."""
        if not trust:
            scope["headers"] = [header for header in scope["headers"] if header[0] not in _CALLERS]
        request = context.from_headers(scope["headers"])
        trace_id = request.trace_id.encode()
        carried = any(name == b"traceparent" and trace_id in value for name, value in scope["headers"])
        sampled = request.sampled if carried else random.random() < self._share
        scope[SCOPE_KEY] = request._replace(sampled=sampled)
        return not sampled

    async def start(self) -> None:
        """Make the provider the process's, so that `opentelemetry.trace.get_tracer` records to it."""
        if self.provider is not None:
            from opentelemetry import trace

            trace.set_tracer_provider(self.provider)

    async def stop(self) -> None:
        """Send the spans that wait."""
        if self.provider is not None:
            await _in_daemon(self.provider.shutdown)


async def _in_daemon(work: Callable[[], object]) -> None:
    """Run `work` in a thread that, unlike `asyncio.to_thread`'s, keeps neither the loop nor the process from ending."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="tracing-stop", daemon=True).start()
    await done.wait()


def bind(request: context.RequestContext) -> tuple[context.RequestContext, object | None]:
    """Join the request's context and OpenTelemetry's.

    Returns:
        The context with the ids of the span under way, and a token for `release`. A request that is not sampled gets
        a span that records nothing, so that spans made inside it are not sampled either.
    """
    from opentelemetry import context as otel
    from opentelemetry import trace

    if request.sampled:
        span = trace.get_current_span().get_span_context()
        request = request._replace(trace_id=f"{span.trace_id:032x}", span_id=f"{span.span_id:016x}")
        return request._replace(sampled=span.trace_flags.sampled), None
    span = trace.SpanContext(int(request.trace_id, 16), int(request.span_id, 16), is_remote=False)
    return request, otel.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))


def release(token: Any) -> None:
    """Undo `bind`."""
    if token is not None:
        from opentelemetry import context as otel

        otel.detach(token)


def _provider(settings: OtelSettings, name: str, version: str, environment: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set but OpenTelemetry's SDK is missing: depend on marty-lib[tracing]"
        ) from error
    from marty_lib._sampling import Sampled

    exporter = OTLPSpanExporter(
        endpoint=f"{settings.exporter_otlp_endpoint.rstrip('/')}/v1/traces",
        headers=_pairs(settings.exporter_otlp_headers.get_secret_value()),
    )
    resource = Resource.create(
        {"service.name": name, "service.version": version, "deployment.environment.name": environment}
    )
    provider = TracerProvider(resource=resource, sampler=Sampled(settings.traces_sampler_arg), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _pairs(text: str) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in text.split(",") if "=" in part)
    return {name.strip(): unquote(value.strip()) for name, value in pairs}
