"""Traces, against a receiver that speaks OTLP."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from marty_lib import App, HttpSettings, OtelSettings, StartError, context, create_api
from marty_lib.testing import FaultyServer, ServiceProcess
from opentelemetry import baggage
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import SecretStr

Client = Callable[[Any], httpx2.AsyncClient]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-00"}


class Collector(ThreadingHTTPServer):
    """Receives spans over OTLP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.headers: dict[str, str] = {}
        self.resource: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), Receive)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Receive(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        self.server.headers = {name.lower(): value for name, value in self.headers.items()}
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resource = {pair.key: pair.value.string_value for pair in each.resource.attributes}
            self.server.spans += [span for scope in each.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found
        found.shutdown()


class Traced:
    """An API whose spans go to a collector."""

    def __init__(self, app: App, api: FastAPI, client: httpx2.AsyncClient, collector: Collector) -> None:
        self.app = app
        self.api = api
        self.client = client
        self.collector = collector

    async def spans(self) -> list[Any]:
        """Return all spans, once they have arrived."""
        await self.app.tracing.stop()
        return self.collector.spans


@pytest.fixture
async def traced(
    make_app: Callable[..., App], client: Client, collector: Collector
) -> AsyncIterator[Callable[..., Traced]]:
    """A function that returns a traced API, with the share of traces to record."""
    apps: list[App] = []

    def make(share: float, **settings: Any) -> Traced:
        otel = OtelSettings(exporter_otlp_endpoint=f"{collector.url}/", traces_sampler_arg=share)
        app = make_app(otel=otel)
        api = create_api(app, HttpSettings(**settings), title="Orders")
        apps.append(app)
        assert app.tracing.provider is not None
        tracer = app.tracing.provider.get_tracer("orders")

        @api.get("/orders/{name}")
        async def order(name: str) -> dict[str, str]:
            with tracer.start_as_current_span("inner"):
                return context.outgoing_headers()

        return Traced(app, api, client(api), collector)

    yield make
    for app in apps:
        await app.tracing.stop()


def server_span(spans: list[Any]) -> Any:
    [span] = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    return span


async def test_a_sampled_request_is_a_span_of_the_callers_trace(traced: Callable[..., Traced]) -> None:
    service = traced(0)

    await service.client.get("/orders/7", headers=SAMPLED)

    span = server_span(await service.spans())
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.name == "GET /orders/{name}"


async def test_spans_inside_a_request_are_children_of_its_span(traced: Callable[..., Traced]) -> None:
    service = traced(0)

    await service.client.get("/orders/7", headers=SAMPLED)

    inner, outer = sorted(await service.spans(), key=lambda span: int(span.kind))
    assert (inner.name, inner.parent_span_id) == ("inner", outer.span_id)


@pytest.mark.parametrize(("share", "headers"), [(1, UNSAMPLED), (0, {}), (0, {"traceparent": "00-nonsense-01"})])
async def test_an_unsampled_request_and_what_is_inside_it_are_no_spans(
    traced: Callable[..., Traced], share: float, headers: dict[str, str]
) -> None:
    service = traced(share)

    answer = await service.client.get("/orders/7", headers=headers)

    assert answer.json()["traceparent"].endswith("-00")
    assert await service.spans() == []


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-nonsense-01"}])
async def test_a_request_without_a_valid_trace_is_sampled_by_share(
    traced: Callable[..., Traced], headers: dict[str, str]
) -> None:
    service = traced(1)

    await service.client.get("/orders/7", headers=headers)

    assert len(await service.spans()) == 2


async def test_the_trace_goes_on_with_the_ids_of_the_span(traced: Callable[..., Traced]) -> None:
    service = traced(0)

    answer = await service.client.get("/orders/7", headers=SAMPLED | {"tracestate": "vendor=1"})

    span = server_span(await service.spans())
    assert answer.json()["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert (answer.json()["tracestate"], span.trace_state) == ("vendor=1", "vendor=1")


@pytest.mark.parametrize("share", [0, 1])
async def test_a_trace_without_a_span_goes_on_too(traced: Callable[..., Traced], share: float) -> None:
    answer = await traced(share).client.get("/orders/7", headers=UNSAMPLED)

    assert answer.json()["traceparent"].startswith(f"00-{TRACE}-")


async def test_the_ids_of_the_log_are_those_of_the_span(traced: Callable[..., Traced], logs: Any) -> None:
    service = traced(1)

    await service.client.get("/orders/7")

    span, line = server_span(await service.spans()), logs.one("http.request")
    assert (line["trace_id"], line["span_id"]) == (span.trace_id.hex(), span.span_id.hex())


@pytest.mark.parametrize(("share", "spans"), [(0, 0), (1, 2)])
async def test_an_untrusted_trace_is_ignored(traced: Callable[..., Traced], share: float, spans: int) -> None:
    service = traced(share, trust_context=False)

    answer = await service.client.get("/orders/7", headers=SAMPLED | {"x-request-id": "r-1"})

    assert answer.headers["x-request-id"] != "r-1"
    assert TRACE not in answer.text
    assert len(await service.spans()) == spans
    assert TRACE not in {span.trace_id.hex() for span in service.collector.spans}


@pytest.mark.parametrize(("trust", "seen"), [(True, {"tenant": "acme"}), (False, {})])
async def test_baggage_is_taken_only_from_who_is_trusted(
    traced: Callable[..., Traced], trust: bool, seen: dict[str, str]
) -> None:
    service = traced(1, trust_context=trust)

    @service.api.get("/baggage")
    async def carried() -> dict[str, object]:
        return dict(baggage.get_all())

    assert (await service.client.get("/baggage", headers={"baggage": "tenant=acme"})).json() == seen


async def test_the_deadline_of_a_traced_request_holds(traced: Callable[..., Traced]) -> None:
    service = traced(1, request_timeout=5)

    answer = await service.client.get("/orders/7", headers={"x-request-timeout": "3"})

    assert 0 < float(answer.json()["x-request-timeout"]) <= 3


async def test_one_request_leaves_nothing_to_the_next(traced: Callable[..., Traced]) -> None:
    from opentelemetry import trace

    service = traced(0)
    for headers in (SAMPLED, UNSAMPLED, {}):
        await service.client.get("/orders/7", headers=headers)

        assert not trace.get_current_span().get_span_context().is_valid


async def test_what_begins_outside_of_requests_is_sampled_by_share(traced: Callable[..., Traced]) -> None:
    service = traced(0)
    assert service.app.tracing.provider is not None

    with service.app.tracing.provider.get_tracer("worker").start_as_current_span("iteration"):
        pass

    assert await service.spans() == []


async def test_a_span_names_the_service(traced: Callable[..., Traced]) -> None:
    service = traced(1)

    await service.client.get("/orders/7")
    await service.spans()

    assert service.collector.resource.items() >= {
        "service.name": "orders", "service.version": "1.2.3", "deployment.environment.name": "development",
    }.items()  # fmt: skip


async def test_the_collectors_headers_are_decoded(
    make_app: Callable[..., App], client: Client, collector: Collector
) -> None:
    headers = SecretStr("Authorization=Basic%20dXNlcg==, x-scope = orders")
    otel = OtelSettings(exporter_otlp_endpoint=collector.url, exporter_otlp_headers=headers, traces_sampler_arg=1)
    app = make_app(otel=otel)

    await client(create_api(app, HttpSettings())).get("/nowhere")
    await app.tracing.stop()

    assert collector.headers.items() >= {"authorization": "Basic dXNlcg==", "x-scope": "orders"}.items()


async def test_without_an_endpoint_there_is_no_tracing(make_app: Callable[..., App]) -> None:
    app = make_app()

    assert app.tracing.provider is None
    await app.tracing.start()
    await app.tracing.stop()


def test_an_endpoint_without_the_sdk_is_a_start_error(
    make_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(StartError, match=r"depend on marty-lib\[tracing\]"):
        make_app(otel=OtelSettings(exporter_otlp_endpoint="http://127.0.0.1:4318"))


def get(url: str, headers: dict[str, str]) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return int(answer.status)


def test_a_process_sends_its_last_spans_before_it_ends(
    run: Callable[..., ServiceProcess], collector: Collector
) -> None:
    process = run(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_TRACES_SAMPLER_ARG="0").wait_ready()

    assert get(process.http, SAMPLED) == 200
    process.terminate()

    assert process.wait() == 0
    [line] = [json.loads(line) for line in process.output().splitlines() if "http.request" in line]
    assert (line["trace_id"], line["span_id"]) == (TRACE, server_span(collector.spans).span_id.hex())


async def test_a_collector_that_hangs_slows_neither_requests_nor_the_end(
    run: Callable[..., ServiceProcess], faulty_server: Callable[..., FaultyServer]
) -> None:
    async with faulty_server("hang") as server:
        url = f"http://127.0.0.1:{server.port}"
        process = await asyncio.to_thread(run(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="10").wait_ready)
        for _ in range(20):
            assert await asyncio.to_thread(get, process.http, SAMPLED) == 200

        process.terminate()

        # Left to itself, OpenTelemetry's SDK would take half a minute.
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert server.connections > 0


@pytest.mark.parametrize("fault", ["reset", "garbage"])
async def test_a_collector_that_fails_is_logged_and_harms_no_request(
    make_app: Callable[..., App],
    client: Client,
    faulty_server: Callable[..., FaultyServer],
    logs: Any,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    async with faulty_server(fault) as server:
        otel = OtelSettings(exporter_otlp_endpoint=f"http://127.0.0.1:{server.port}", traces_sampler_arg=1)
        app = make_app(otel=otel)

        assert (await client(create_api(app, HttpSettings())).get("/nowhere")).status_code == 404

        await app.tracing.stop()
        assert server.connections > 0
        assert any("opentelemetry" in line.get("logger", "") for line in logs.lines)
