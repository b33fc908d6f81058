"""What the library's tests share: a clean environment, applications, clients, the log, services as processes."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from marty_lib import App, OpsSettings, Server, ServiceSettings, context, log
from marty_lib.redis import Redis
from marty_lib.settings import LogSettings
from marty_lib.testing import ServiceProcess

from .redis_kit import connected

# Where a test has not configured the log, structlog draws each error with all its variables, if rich is there: for a
# tenth of a second, in which nothing else runs.
structlog.get_config()["processors"][-1].exception_formatter = structlog.dev.plain_traceback

DEADLINE = 20.0
PREFIXES = ("DATABASE_", "DRAIN_", "EVENTS_", "GRPC_", "HTTP_", "LOG_", "OPS_", "OTEL_", "REDIS_")
NAMES = ("ENVIRONMENT", "DEBUG", "ALLOW_EMBEDDED", "LOG", "HTTP")

SERVICE = """
import asyncio
import os
from pathlib import Path

from fastapi import Request

from marty_lib import App, HttpSettings, ServiceSettings, create_api, log, main, serve


class Settings(ServiceSettings):
    http: HttpSettings = HttpSettings()


class Database:
    name = "database"

    async def start(self): ...

    async def check(self):
        _, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["DATABASE_PORT"]))
        writer.close()

    async def stop(self):
        log.get().info("database.stopped")


def create_app(settings):
    app = App(settings, name="orders", version="1.2.3")
    if "DATABASE_PORT" in os.environ:
        app.add(Database())
    api = create_api(app, settings.http, title="Orders")

    @api.get("/")
    async def root():
        return {"ok": True}

    @api.get("/slow")
    async def slow(until: Path):
        log.get().warning("slow.began")
        while not until.exists():
            await asyncio.sleep(0.01)
        return {"ok": True}

    @api.get("/broken")
    async def broken():
        raise RuntimeError("cannot reach postgresql://orders:hunter2@db/orders")

    @api.post("/size")
    async def size(request: Request):
        return len(await request.body())

    app.add(serve(api, settings.http))
    return app


if __name__ == "__main__":
    main(Settings, create_app)
"""

Answer = tuple[int, dict[str, str], bytes]
Run = Callable[..., ServiceProcess]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "process: starts a service as a process; leave out with -m 'not process'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"run", "pytester"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("process")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's environment reaches a test's settings."""
    for name in os.environ:
        if name.startswith(PREFIXES) or name in NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "no-secrets"))


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    """What is closed after the test."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["embedded", "server"])
def redis(request: pytest.FixtureRequest, opened: AsyncExitStack) -> Redis:
    """Redis in this process, and a real one."""
    return connected(opened, "memory://" if request.param == "embedded" else request.getfixturevalue("redis_url"))


class Logs:
    """What has been logged, as JSON lines."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()

    @property
    def text(self) -> str:
        log.output.flush()
        return self.stream.getvalue().decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def one(self, event: str) -> dict[str, Any]:
        """Return the only line about `event`."""
        [line] = [line for line in self.lines if line["event"] == event]
        return line


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    """The log of this test, configured as in production."""
    found = Logs()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(log, "output", log.Output(found.stream))
    monkeypatch.setattr(log, "_as_json", True)
    monkeypatch.setattr(log, "_service", {})
    log.configure(LogSettings(format="json"), service="orders", version="1.2.3")
    yield found
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def make_app() -> Callable[..., App]:
    """A function that returns an App on a free operations port; settings are given by name."""

    def make(**settings: Any) -> App:
        return App(ServiceSettings(ops=OpsSettings(port=0), **settings), name="orders", version="1.2.3")

    return make


@pytest.fixture
async def client() -> AsyncIterator[Callable[[Any], httpx2.AsyncClient]]:
    """A function that returns a client for an ASGI application, without a server in between."""
    async with AsyncExitStack() as stack:

        def connect(application: Any) -> httpx2.AsyncClient:
            found = httpx2.AsyncClient(transport=httpx2.ASGITransport(application), base_url="http://orders")
            stack.push_async_callback(found.aclose)
            return found

        yield connect


@pytest.fixture
async def served() -> AsyncIterator[Callable[[Any], Awaitable[Server]]]:
    """A function that serves an ASGI application on a free port of 127.0.0.1."""
    servers = []

    async def serve(application: Any) -> Server:
        server = Server("test", application, host="127.0.0.1", port=0)
        servers.append(server)
        await server.start()
        return server

    yield serve
    for server in servers:
        await server.stop()


class Wire:
    """A TCP connection that speaks HTTP/1.1 by the byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        """Read one response whose length is announced; a cut-off one raises IncompleteReadError."""
        async with asyncio.timeout(DEADLINE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return int(head[0].split()[1]), headers, body

    async def rest(self) -> bytes:
        """Read until the other side closes."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[int], Awaitable[Wire]]]:
    """A function that opens a TCP connection to a port of 127.0.0.1."""
    writers = []

    async def open_wire(port: int) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return Wire(reader, writer)

    yield open_wire
    for writer in writers:
        writer.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """A function that polls until its argument returns something true."""

    def wait(condition: Callable[[], object]) -> None:
        ends = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < ends, "it did not happen in time"
            time.sleep(0.01)

    return wait


@pytest.fixture
def soon() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """As `eventually`, for the event loop."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A function that starts a service as a process; by default `SERVICE`, and not yet ready."""
    started = []

    def start(source: str = SERVICE, **environment: str) -> ServiceProcess:
        (tmp_path / "a_service.py").write_text(source)
        environment = {"PYTHONPATH": str(tmp_path), "SECRETS_DIR": str(tmp_path / "secrets")} | environment
        process = ServiceProcess("a_service", **environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture
def request_context() -> Iterator[context.RequestContext]:
    """The context that is current during the test."""
    with context.use(context.RequestContext("r-1", "4" * 32, "5" * 16)) as current:
        yield current
