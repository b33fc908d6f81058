"""The API in process: problems, limits, deadlines, headers, the access log and metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from marty_lib import App, HttpSettings, NotFound, RateLimited, Unavailable, context, create_api
from marty_lib._stack import Stack
from prometheus_client import REGISTRY
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

MakeApi = Callable[..., FastAPI]
Client = Callable[[Any], httpx2.AsyncClient]
SECRET = "hunter2"  # noqa: S105


class Item(BaseModel):
    name: str
    quantity: int


class Order(BaseModel):
    items: list[Item]


@pytest.fixture
def make_api(make_app: Callable[..., App]) -> MakeApi:
    """A function that returns an API; settings of its stack are given by name."""

    def make(debug: bool = False, app: App | None = None, **settings: Any) -> FastAPI:
        api = create_api(app or make_app(debug=debug), HttpSettings(**settings), title="Orders")
        inner, outer = APIRouter(prefix="/{order}"), APIRouter(prefix="/orders")

        @inner.get("/items/{item}")
        async def item(order: int, item: int) -> dict[str, int]:
            return {"order": order, "item": item}

        @api.get("/")
        async def root() -> dict[str, str]:
            return context.outgoing_headers()

        @api.get("/error/{kind}")
        async def error(kind: str) -> None:
            raise {
                "service": NotFound("There is no such order.", code="no-such-order"),
                "limited": RateLimited("Too often.", headers={"Retry-After": "7"}),
                "http": HTTPException(418, "I am a teapot."),
                "phrase": HTTPException(404),
                "empty": HTTPException(304, headers={"ETag": '"1"'}),
                "timeout": TimeoutError("the database's"),
                "left": ClientDisconnect(),
                "unknown": RuntimeError(f"postgresql://orders:{SECRET}@db"),
            }[kind]

        @api.get("/hang")
        async def hang() -> None:
            await asyncio.Event().wait()

        @api.get("/thread")
        def thread() -> dict[str, str]:
            return context.outgoing_headers()

        @api.post("/orders", status_code=201)
        async def place(order: Order, limit: Annotated[int, Query(le=10)] = 1) -> int:
            return len(order.items)

        @api.post("/size")
        async def size(request: Request) -> int:
            return len(await request.body())

        @api.get("/own")
        async def own(response: Response) -> None:
            response.headers["Content-Security-Policy"] = "default-src 'self'"
            response.headers["X-Request-ID"] = "upstream's"

        outer.include_router(inner)
        api.include_router(outer)
        return api

    return make


def counted() -> dict[tuple[str, str, str], float]:
    """Return how many requests have been counted, by method, route and status."""
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "http_server_request_duration_seconds_count"
    }


def problem_of(answer: httpx2.Response) -> dict[str, Any]:
    """Return the problem after checking what RFC 9457 says of every one."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status_code
    assert document["type"] == f"urn:problem-type:{document['code']}"
    assert document["request_id"] == answer.headers["x-request-id"]
    assert all(document[name] for name in document)
    return dict(document)


# Problems


async def test_a_service_error_is_a_problem(client: Client, make_api: MakeApi) -> None:
    document = problem_of(await client(make_api()).get("/error/service"))

    assert (document["status"], document["code"], document["detail"]) == (
        404, "no-such-order", "There is no such order.",
    )  # fmt: skip


async def test_an_errors_headers_are_sent(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).get("/error/limited")

    assert (problem_of(answer)["code"], answer.headers["retry-after"]) == ("rate-limited", "7")


async def test_an_unknown_path_is_a_problem(client: Client, make_api: MakeApi) -> None:
    assert problem_of(await client(make_api()).get("/nowhere"))["code"] == "not-found"


async def test_an_error_of_a_framework_is_a_problem(client: Client, make_api: MakeApi) -> None:
    document = problem_of(await client(make_api()).get("/error/http"))

    assert (document["status"], document["title"], document["detail"]) == (418, "I'm a Teapot", "I am a teapot.")


async def test_a_detail_that_only_repeats_the_title_is_left_out(client: Client, make_api: MakeApi) -> None:
    assert "detail" not in problem_of(await client(make_api()).get("/error/phrase"))


async def test_not_modified_has_no_body(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).get("/error/empty")

    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"1"')


async def test_405_keeps_the_methods_allowed(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).delete("/orders")

    assert (problem_of(answer)["code"], answer.headers["allow"]) == ("method-not-allowed", "POST")


async def test_head_is_answered_where_it_is_not_allowed(client: Client, make_api: MakeApi) -> None:
    assert (await client(make_api()).head("/")).status_code == 405


async def test_wrong_fields_are_listed_by_pointer_and_show_no_value(client: Client, make_api: MakeApi) -> None:
    order = {"items": [{"name": "a", "quantity": 1}, {"name": "b", "quantity": SECRET}]}

    answer = await client(make_api()).post("/orders?limit=11", json=order)

    assert {wrong["pointer"] for wrong in problem_of(answer)["errors"]} == {"/items/1/quantity", "query/limit"}
    assert SECRET not in answer.text


@pytest.mark.parametrize("body", [b"{", b'{"items": [}', b""])
async def test_the_pointer_to_the_whole_body_is_empty(client: Client, make_api: MakeApi, body: bytes) -> None:
    answer = await client(make_api()).post("/orders", content=body, headers={"content-type": "application/json"})

    assert problem_of(answer)["errors"][0]["pointer"] == ""


async def test_a_pointer_escapes_slashes(client: Client, make_api: MakeApi) -> None:
    api = make_api()

    @api.post("/map")
    async def take(body: dict[str, int]) -> None: ...

    answer = await client(api).post("/map", json={"a/b~c": "x"})

    assert problem_of(answer)["errors"][0]["pointer"] == "/a~1b~0c"


@pytest.mark.parametrize("body", [b"{", b"\xff", b""])
async def test_a_malformed_body_is_invalid_input(client: Client, make_api: MakeApi, body: bytes) -> None:
    answer = await client(make_api()).post("/orders", content=body, headers={"content-type": "application/json"})

    assert problem_of(answer)["status"] in (400, 422)


async def test_an_unknown_error_tells_its_id_and_nothing_else(client: Client, make_api: MakeApi, logs: Any) -> None:
    answer = await client(make_api()).get("/error/unknown")

    document = problem_of(answer)
    line = logs.one("http.error")
    assert (document["status"], document["code"]) == (500, "internal")
    assert line.items() >= {"error_id": document["error_id"], "request_id": document["request_id"]}.items()
    assert "RuntimeError" not in answer.text
    assert "RuntimeError" in line["exception"]
    assert SECRET not in answer.text + logs.text


async def test_an_unknown_error_is_counted(client: Client, make_api: MakeApi) -> None:
    def unhandled() -> float:
        return REGISTRY.get_sample_value("unhandled_errors_total", {"where": "http"}) or 0.0

    before = unhandled()
    await client(make_api()).get("/error/unknown")

    assert unhandled() == before + 1


async def test_debug_shows_the_traceback(client: Client, make_api: MakeApi) -> None:
    assert "RuntimeError" in problem_of(await client(make_api(debug=True)).get("/error/unknown"))["detail"]


async def test_a_timeout_of_somebody_else_is_not_the_requests(client: Client, make_api: MakeApi) -> None:
    assert problem_of(await client(make_api()).get("/error/timeout"))["status"] == 500


# Deadlines


async def test_a_request_that_takes_too_long_is_answered_with_504(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api(request_timeout=0.02)).get("/hang")

    assert problem_of(answer)["code"] == "deadline-exceeded"


async def test_a_caller_may_ask_for_less_time(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).get("/hang", headers={"x-request-timeout": "0.02"})

    assert answer.status_code == 504


@pytest.mark.parametrize("asked", [{}, {"x-request-timeout": "999"}])
async def test_a_caller_may_not_ask_for_more_time(client: Client, make_api: MakeApi, asked: dict[str, str]) -> None:
    answer = await client(make_api(request_timeout=5)).get("/", headers=asked)

    assert 0 < float(answer.json()["x-request-timeout"]) <= 5


async def test_without_a_limit_there_is_no_deadline(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api(request_timeout=0)).get("/")

    assert "x-request-timeout" not in answer.json()


async def test_a_deadline_after_the_answer_has_begun_cuts_it_off_and_says_so(make_api: MakeApi, logs: Any) -> None:
    api = make_api(request_timeout=0.05)

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    sent = await exchanged(api, "/stream")

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert logs.one("http.cut_off")["code"] == "deadline-exceeded"


async def test_an_error_after_the_answer_has_begun_cuts_it_off_and_is_logged(make_api: MakeApi, logs: Any) -> None:
    api = make_api()

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("half-way")

        return StreamingResponse(parts())

    sent = await exchanged(api, "/stream")

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert "half-way" in logs.one("http.error")["exception"]


async def test_a_service_error_after_the_answer_has_begun_cuts_it_off(make_api: MakeApi, logs: Any) -> None:
    api = make_api()

    @api.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        async def work() -> None:
            raise Unavailable

        tasks.add_task(work)

    await exchanged(api, "/background")

    assert "Unavailable" in logs.one("http.error")["exception"]


async def exchanged(api: Any, path: str, **scope: Any) -> list[Any]:
    """Return the messages that an application sends for a request, as a server sees them."""
    sent: list[Any] = []
    gone = asyncio.Event()

    async def receive() -> Any:
        if scope.get("body") is not None:
            return {"type": "http.request", "body": scope.pop("body"), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await api(
        {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": scope.get("method", "GET"), "scheme": "http", "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "headers": scope.get("headers", []),
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        },
        receive,
        send,
    )  # fmt: skip
    return sent


# Bodies


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


async def test_a_body_within_the_limit_is_taken(client: Client, make_api: MakeApi) -> None:
    api = client(make_api(body_limit=1000))

    assert (await api.post("/size", content=b"x" * 1000)).json() == 1000
    assert (await api.post("/size", content=chunks(10))).json() == 1000


@pytest.mark.parametrize("path", ["/size", "/orders"])
@pytest.mark.parametrize("content", ["announced", "chunked"])
async def test_a_larger_body_is_refused(client: Client, make_api: MakeApi, path: str, content: str) -> None:
    body = chunks(11) if content == "chunked" else b"x" * 1001

    answer = await client(make_api(body_limit=1000)).post(path, content=body)

    assert (problem_of(answer)["code"], answer.json()["detail"]) == (
        "payload-too-large", "The body may have 1000 bytes at most.",
    )  # fmt: skip


async def test_without_a_limit_any_body_is_taken(client: Client, make_api: MakeApi) -> None:
    api = client(make_api(body_limit=0))

    assert (await api.post("/size", content=b"x" * 2_000_000)).json() == 2_000_000
    assert (await api.post("/size", content=chunks(20_000))).json() == 2_000_000


@pytest.mark.parametrize("length", [b"-1", b"many", b"", b"1_0", b"9" * 5000])
async def test_a_malformed_length_does_not_get_around_the_limit(make_api: MakeApi, length: bytes) -> None:
    headers = [(b"content-length", length)]

    sent = await exchanged(make_api(body_limit=10), "/size", method="POST", headers=headers, body=b"x" * 11)

    assert sent[0]["status"] == 413


# Headers


async def test_browsers_are_told_to_be_careful(client: Client, make_api: MakeApi) -> None:
    headers = (await client(make_api()).get("/nowhere")).headers

    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert (headers["referrer-policy"], headers["cross-origin-resource-policy"]) == ("no-referrer", "same-origin")


async def test_a_header_of_the_application_wins(client: Client, make_api: MakeApi) -> None:
    headers = (await client(make_api()).get("/own")).headers

    assert headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert headers["x-frame-options"] == "DENY"


async def test_security_headers_can_be_left_out(client: Client, make_api: MakeApi) -> None:
    headers = (await client(make_api(security_headers=False)).get("/")).headers

    assert headers.keys() == {"content-type", "content-length", "x-request-id"}


async def test_answers_do_not_collect_each_others_headers(client: Client, make_api: MakeApi) -> None:
    api = client(make_api())
    first = await api.get("/")

    for _ in range(3):
        last = await api.get("/own")

    assert len(last.headers) == len(first.headers)


async def test_a_request_id_is_answered(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).get("/", headers={"x-request-id": "r-1"})

    assert (answer.headers["x-request-id"], answer.json()["x-request-id"]) == ("r-1", "r-1")


async def test_there_is_one_request_id(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).get("/own", headers={"x-request-id": "r-1"})

    assert answer.headers.get_list("x-request-id") == ["r-1"]


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a" * 129, "é".encode(), b"<script>"])
async def test_a_request_id_cannot_be_used_to_inject(client: Client, make_api: MakeApi, value: bytes) -> None:
    sent = await exchanged(make_api(), "/", headers=[(b"x-request-id", value)])

    assert re.fullmatch(b"[0-9a-f]{32}", dict(sent[0]["headers"])[b"x-request-id"])


async def test_an_untrusted_context_is_ignored(client: Client, make_api: MakeApi) -> None:
    carried = {"x-request-id": "r-1", "traceparent": f"00-{'4' * 32}-{'5' * 16}-01", "x-request-timeout": "0"}

    answer = await client(make_api(trust_context=False)).get("/", headers=carried)

    assert answer.status_code == 200
    assert answer.headers["x-request-id"] != "r-1"
    assert "4" * 32 not in answer.text


async def test_a_context_reaches_threads(client: Client, make_api: MakeApi) -> None:
    answer = await client(make_api()).get("/thread", headers={"x-request-id": "r-1"})

    assert answer.json()["x-request-id"] == "r-1"


async def test_a_context_ends_with_its_request(client: Client, make_api: MakeApi) -> None:
    await client(make_api()).get("/error/unknown")

    assert context.current() is None


async def test_a_draining_service_closes_connections(
    client: Client, make_api: MakeApi, make_app: Callable[..., App]
) -> None:
    app = make_app()
    api = client(make_api(app=app))
    assert "connection" not in (await api.get("/")).headers

    app.health.draining = True

    assert (await api.get("/")).headers["connection"] == "close"


# CORS

ORIGIN = {"origin": "https://shop.example"}


async def test_a_preflight_is_answered(client: Client, make_api: MakeApi) -> None:
    asked = ORIGIN | {"access-control-request-method": "PUT", "access-control-request-headers": "if-match"}

    answer = await client(make_api(cors_origins="https://shop.example")).options("/orders", headers=asked)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "PUT" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/error/unknown", "/error/service"])
async def test_errors_can_be_read_by_allowed_origins(client: Client, make_api: MakeApi, path: str) -> None:
    answer = await client(make_api(cors_origins="https://shop.example")).get(path, headers=ORIGIN)

    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("origins", ["", "https://other.example"])
async def test_other_origins_are_not_allowed(client: Client, make_api: MakeApi, origins: str) -> None:
    answer = await client(make_api(cors_origins=origins)).get("/", headers=ORIGIN)

    assert "access-control-allow-origin" not in answer.headers


# Log and metrics


async def test_each_request_is_one_line(client: Client, make_api: MakeApi, logs: Any) -> None:
    answer = await client(make_api()).get("/orders/1/items/2?token=hunter2")

    line = logs.one("http.request")
    assert line.items() >= {
        "method": "GET", "path": "/orders/1/items/2", "route": "/orders/{order}/items/{item}", "status": 200,
        "request_id": answer.headers["x-request-id"],
    }.items()  # fmt: skip
    assert SECRET not in logs.text


async def test_the_access_log_can_be_switched_off(client: Client, make_api: MakeApi, logs: Any) -> None:
    await client(make_api(access_log=False)).get("/")

    assert logs.lines == []


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/orders/1/items/2", ("GET", "/orders/{order}/items/{item}", "200")),
        ("/orders/x/items/2", ("GET", "/orders/{order}/items/{item}", "422")),
        ("/error/unknown", ("GET", "/error/{kind}", "500")),
        ("/nowhere", ("GET", "<unmatched>", "404")),
    ],
)
async def test_requests_are_counted_by_route(
    client: Client, make_api: MakeApi, path: str, label: tuple[str, str, str]
) -> None:
    before = counted().get(label, 0.0)
    await client(make_api()).get(path)

    assert counted()[label] == before + 1


async def test_a_route_behind_a_root_path_keeps_it(make_api: MakeApi) -> None:
    api = FastAPI()
    api.mount("/v1", make_api())
    before = counted()

    await exchanged(api, "/v1/orders/1/items/2")

    assert counted().keys() - before.keys() <= {("GET", "/v1/orders/{order}/items/{item}", "200")}
    assert counted()["GET", "/v1/orders/{order}/items/{item}", "200"] >= 1


async def test_ten_thousand_unknown_paths_and_methods_add_one_label_set_each(make_api: MakeApi) -> None:
    api = make_api(access_log=False)
    await exchanged(api, "/nowhere")
    before = counted()

    for number in range(10_000):
        await exchanged(api, f"/nowhere/{number}")
    for number in range(100):
        await exchanged(api, "/nowhere", method=f"M{number}")

    assert counted().keys() - before.keys() <= {("OTHER", "<unmatched>", "404")}
    assert counted()["GET", "<unmatched>", "404"] == before["GET", "<unmatched>", "404"] + 10_000


async def test_metrics_can_be_switched_off(client: Client, make_api: MakeApi) -> None:
    before = counted()
    await client(make_api(metrics=False)).get("/")

    assert counted() == before


async def test_requests_under_way_are_counted(client: Client, make_api: MakeApi) -> None:
    api = make_api()
    active: list[float | None] = []

    @api.get("/active")
    async def active_now() -> None:
        active.append(REGISTRY.get_sample_value("http_server_active_requests"))

    await client(api).get("/active")

    assert [*active, REGISTRY.get_sample_value("http_server_active_requests")] == [1.0, 0.0]


async def test_a_client_that_leaves_is_no_error(make_api: MakeApi, logs: Any) -> None:
    await exchanged(make_api(), "/error/left")

    assert logs.one("http.request")["status"] == 499
    assert not any(line["level"] == "error" for line in logs.lines)


async def test_a_cancelled_request_is_recorded(make_api: MakeApi, logs: Any) -> None:
    request = asyncio.create_task(exchanged(make_api(), "/hang"))
    await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.wait({request})

    assert request.cancelled()
    assert logs.one("http.request")["status"] == 499


# Other scopes


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_what_is_not_http_passes_through_untouched(kind: str) -> None:
    seen: list[Any] = []

    async def application(*arguments: Any) -> None:
        seen.extend(arguments)

    scope, receive, send = {"type": kind}, object(), object()
    await Stack(application, settings=HttpSettings(), health=SimpleNamespace(draining=False))(scope, receive, send)  # type: ignore[arg-type]

    assert [id(each) for each in seen] == [id(scope), id(receive), id(send)]


async def test_the_lifespan_of_the_api_runs(make_api: MakeApi) -> None:
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await make_api()({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
