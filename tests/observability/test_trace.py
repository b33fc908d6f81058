"""One request through two rendered services and a broker: one trace at an OTLP receiver, one request id in the logs."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import Render
from tests.observability.rendered import Rendered, until
from tests.observability.traffic import ORDER
from tests.servers.server import free_server_ports

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("observability")]
TRACE, CALLER, REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "checkout-7"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that come by OTLP, each with the name of its service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Receive)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Receive(BaseHTTPRequestHandler):
    """Takes one export."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = [pair.value.string_value for pair in each.resource.attributes if pair.key == "service.name"]
            self.server.spans += [(service, span) for scope in each.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def listening_to(service: Path, other: str) -> Path:
    """Have a service handle another's events, as its owner would."""
    contract = service / "src" / "billing_service" / "messaging" / "contract.py"
    own = 'ORDERS = topic_name(about.NAME, "order")'
    text = contract.read_text(encoding="utf-8")
    changed = text.replace(own, f'ORDERS = topic_name("{other}", "order")')
    assert f'"{other}"' in changed
    contract.write_text(changed, encoding="utf-8")
    return service


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver of spans."""
    with Collector() as found:
        yield found
        found.shutdown()


@pytest.fixture
def services(installed: Render, collector: Collector, redis_url: str) -> Iterator[tuple[Rendered, Rendered]]:
    """A service that takes orders, and one that handles its events."""
    answers = {"service_kind": "message-queue", "broker": "redis"}
    orders = installed(**answers)
    billing = listening_to(installed(service_name="billing-service", **answers), "order-service")
    variables = {
        "EVENTS_URL": redis_url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        # So that both log a line about the request, however little there is to say.
        "DATABASE_SLOW_QUERY": "0.000001",
        "LOG_FORMAT": "json",
    }
    ports = free_server_ports(6)
    with ExitStack() as stack:
        started = []
        for folder, package, own in ((orders, "order_service", ports[:3]), (billing, "billing_service", ports[3:])):
            service = Rendered(folder, own, package, **variables)
            stack.callback(service.close)
            started.append(service)
        for service in started:
            service.wait_ready(60)
        yield started[0], started[1]


def lines(service: Rendered) -> list[dict[str, Any]]:
    """Return what a service has logged about the request."""
    logged = [json.loads(line) for line in service.output().splitlines() if line.startswith("{")]
    return [line for line in logged if line.get("trace_id") == TRACE]


def test_a_request_through_two_services_and_a_broker_is_one_trace(
    services: tuple[Rendered, Rendered], collector: Collector
) -> None:
    orders, billing = services
    headers = {
        "content-type": "application/json",
        "traceparent": f"00-{TRACE}-{CALLER}-01",
        "x-request-id": REQUEST,
    }
    request = urllib.request.Request(f"{orders.http}/v1/orders", json.dumps(ORDER).encode(), headers)
    urllib.request.urlopen(request, timeout=20).close()
    until(lambda: lines(billing), billing.output)
    for service in services:
        service.terminate()
        assert service.process.wait(40) == 0

    seen = [(name, span) for name, span in collector.spans if span.trace_id.hex() == TRACE]
    assert {name for name, _ in seen} == {"order-service", "billing-service"}
    known = {span.span_id.hex() for _, span in seen} | {CALLER}
    assert {span.parent_span_id.hex() for _, span in seen} <= known
    for service in services:
        assert {line["request_id"] for line in lines(service)} == {REQUEST}
