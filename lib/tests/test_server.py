"""The server on real connections: limits, clients that leave, draining, stopping."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from marty_lib import App, HttpSettings, Server, StartError, create_api, serve

Connect = Callable[[int], Awaitable[Any]]
Serve = Callable[[Any], Awaitable[Server]]
Soon = Callable[[Callable[[], object]], Awaitable[None]]
HOST = b" HTTP/1.1\r\nhost: orders\r\n"
GET = b"GET /" + HOST + b"\r\n"


class Gate:
    """Where a request waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def api(make_app: Callable[..., App], gate: Gate) -> FastAPI:
    api = create_api(make_app(), HttpSettings(), title="Orders")

    @api.get("/")
    async def root() -> str:
        return "here"

    @api.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @api.post("/upload")
    async def upload(request: Request) -> int:
        gate.reached.set()
        return sum([len(part) async for part in request.stream()])

    @api.get("/wait")
    async def wait() -> str:
        await gate.wait()
        return "done"

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            await gate.wait()
            yield b"two"

        return StreamingResponse(parts())

    @api.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError

        return StreamingResponse(parts())

    @api.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()

    return api


async def test_a_large_announced_body_is_refused_and_the_connection_stays(
    api: FastAPI, served: Serve, connect: Connect
) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(b"POST /size" + HOST + b"content-length: 2000000\r\n\r\n" + b"x" * 2_000_000)
    assert (await wire.answer())[0] == 413

    await wire.send(GET)
    assert (await wire.answer())[::2] == (200, b'"here"')


async def test_a_large_chunked_body_is_refused_and_the_connection_stays(
    api: FastAPI, served: Serve, connect: Connect
) -> None:
    wire = await connect((await served(api)).port)
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"

    await wire.send(b"POST /size" + HOST + b"transfer-encoding: chunked\r\n\r\n" + chunk * 200 + b"0\r\n\r\n")
    assert (await wire.answer())[0] == 413

    await wire.send(GET)
    assert (await wire.answer())[::2] == (200, b'"here"')


@pytest.mark.parametrize("length", [b"-1", b"many", b"9" * 30, b"1\r\ncontent-length: 2"])
async def test_a_malformed_length_is_the_callers_fault(
    api: FastAPI, served: Serve, connect: Connect, length: bytes
) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(b"POST /size" + HOST + b"content-length: " + length + b"\r\n\r\n")

    assert (await wire.rest()).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


async def test_head_of_an_error_has_no_body(api: FastAPI, served: Serve, connect: Connect) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(b"HEAD /nowhere" + HOST + b"connection: close\r\n\r\n")
    answer = await wire.rest()

    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in answer


async def test_the_server_does_not_say_what_it_is(api: FastAPI, served: Serve, connect: Connect) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(GET)

    assert "server" not in (await wire.answer())[1]


async def test_an_answer_that_breaks_half_way_is_cut_off(
    api: FastAPI, served: Serve, connect: Connect, logs: Any
) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(b"GET /half" + HOST + b"\r\n")
    answer = await wire.rest()

    assert b"one" in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_a_client_that_leaves_a_stream_ends_it_quietly(
    api: FastAPI, served: Serve, connect: Connect, gate: Gate, logs: Any, soon: Soon
) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(b"GET /stream" + HOST + b"\r\n")
    await gate.reached.wait()
    wire.writer.close()

    await soon(lambda: [line for line in logs.lines if line["event"] == "http.request"])
    assert gate.cancelled.is_set()
    assert [line["event"] for line in logs.lines if line["level"] != "info"] == []


async def test_a_client_that_leaves_while_it_sends_is_no_error(
    api: FastAPI, served: Serve, connect: Connect, gate: Gate, logs: Any, soon: Soon
) -> None:
    wire = await connect((await served(api)).port)

    await wire.send(b"POST /upload" + HOST + b"content-length: 100\r\n\r\nx")
    await gate.reached.wait()
    wire.writer.close()

    await soon(lambda: [line for line in logs.lines if line["event"] == "http.request"])
    assert logs.one("http.request")["status"] == 499
    assert [line["event"] for line in logs.lines if line["level"] != "info"] == []


async def test_draining_answers_the_request_under_way_and_refuses_others(
    api: FastAPI, served: Serve, connect: Connect, gate: Gate, soon: Soon
) -> None:
    server = await served(api)
    wire = await connect(server.port)
    await wire.send(b"GET /wait" + HOST + b"\r\n")
    await gate.reached.wait()

    draining = asyncio.create_task(server.drain())
    await soon(lambda: refuses(server.port))
    assert not draining.done()

    gate.open.set()
    assert (await wire.answer())[::2] == (200, b'"done"')
    await draining


def refuses(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


async def test_draining_closes_idle_connections(api: FastAPI, served: Serve, connect: Connect) -> None:
    server = await served(api)
    wire = await connect(server.port)
    await wire.send(GET)
    await wire.answer()

    await server.drain()

    assert await wire.rest() == b""


async def test_stopping_cancels_the_request_under_way(
    api: FastAPI, served: Serve, connect: Connect, gate: Gate
) -> None:
    server = await served(api)
    wire = await connect(server.port)
    await wire.send(b"GET /wait" + HOST + b"\r\n")
    await gate.reached.wait()

    await server.stop()

    assert gate.cancelled.is_set()
    assert refuses(server.port)


async def test_a_server_can_be_stopped_and_drained_whatever_became_of_it(api: FastAPI, served: Serve) -> None:
    never = Server("never", api, host="127.0.0.1", port=0)
    await never.drain()
    await never.stop()

    server = await served(api)
    await server.drain()
    await server.stop()
    await server.wait()


async def test_a_taken_port_names_the_setting(api: FastAPI, served: Serve) -> None:
    taken = await served(api)

    with pytest.raises(StartError, match=rf"127.0.0.1:{taken.port} \(.*\): set HTTP_PORT to a free port"):
        await serve(api, HttpSettings(port=taken.port)).start()


async def test_an_address_of_another_machine_is_a_start_error(api: FastAPI) -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1"):
        await serve(api, HttpSettings(host="192.0.2.1", port=0)).start()


async def test_a_host_that_is_no_address_is_a_start_error(api: FastAPI) -> None:
    with pytest.raises(StartError, match="check the host and HTTP_PORT"):
        await serve(api, HttpSettings(host="256.256.256.256", port=0)).start()


async def test_a_port_can_be_taken_again_at_once(api: FastAPI, connect: Connect, served: Serve) -> None:
    first = await served(api)
    wire = await connect(first.port)
    await wire.send(GET)
    await wire.answer()
    await first.drain()

    again = serve(api, HttpSettings(port=first.port))
    await again.start()
    await again.stop()
