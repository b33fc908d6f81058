"""The usual assembly: the same routes and storage under the packages that services are pasted together from.

slowapi sees only routes that are declared on the application itself, so that they are.
"""

import asyncio
import json
import logging
import os
import sys
import time

import uvicorn
from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from order_service.api.orders import order_routes
from order_service.domain.service import OrderService
from order_service.storage.memory import InMemoryOrders
from prometheus_fastapi_instrumentator import Instrumentator
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.middleware.base import (  # noqa: TID251 - what it costs is measured here
    BaseHTTPMiddleware,
    RequestResponseEndpoint,
)

SECONDS = 30.0
SECURITY = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
log = logging.getLogger("access")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": self.formatTime(record),
            "level": record.levelname,
            "event": record.getMessage(),
            "request_id": getattr(record, "correlation_id", None),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line)


async def write_log(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Log one line for each request."""
    began = time.perf_counter()
    response = await call_next(request)
    fields = {
        "method": request.method,
        "path": request.url.path,
        "status": response.status_code,
        "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        "trace_id": f"{trace.get_current_span().get_span_context().trace_id:032x}",
        # Shows that slowapi has counted the request.
        "rate_limit": str(request.state.view_rate_limit[0]),
    }
    log.info("http.request", extra={"fields": fields})
    return response


async def add_security_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Complete the headers."""
    response = await call_next(request)
    response.headers.update(SECURITY)
    return response


async def limit_time(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Answer 504 for what takes too long."""
    try:
        return await asyncio.wait_for(call_next(request), SECONDS)
    except TimeoutError:
        return Response(status_code=504)


def configure_log() -> None:
    """Write JSON lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(CorrelationIdFilter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def trace_requests(app: FastAPI) -> None:
    """Export a trace of every request to where OTEL_EXPORTER_OTLP_ENDPOINT says."""
    provider = TracerProvider(resource=Resource.create({"service.name": "order-service"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app)


def create_app(limit: str) -> FastAPI:
    """Return the application; `limit` is for each caller, as slowapi writes limits."""
    app = FastAPI()
    app.state.limiter = Limiter(key_func=get_remote_address, default_limits=[limit])
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    for route in order_routes(OrderService(InMemoryOrders())).routes:
        assert isinstance(route, APIRoute)
        app.add_api_route(
            route.path,
            route.endpoint,
            methods=list(route.methods or ()),
            response_model=route.response_model,
            status_code=route.status_code,
        )
    app.add_middleware(SlowAPIMiddleware)
    for dispatch in (limit_time, add_security_headers, write_log):
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_middleware(CorrelationIdMiddleware)
    Instrumentator().instrument(app).expose(app)
    trace_requests(app)
    return app


if __name__ == "__main__":
    configure_log()
    uvicorn.run(
        create_app(os.environ.get("LIMIT", "1000000000/hour")),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
