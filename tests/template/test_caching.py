"""The kind caching as a process under load, while its Redis is killed, hangs and comes back, and on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient, HTTPError
from marty_lib.testing import free_ports

from tests.conftest import Render, make

pytestmark = pytest.mark.slow

# The service's own app, with a source that writes views to a file: slowly, and at first not at all.
OWNER = """
import asyncio, os
from marty_lib import main
from order_service import app
from order_service.config import Settings
from order_service.storage.memory import InMemorySource

class FileSource(InMemorySource):
    failures = 2

    async def add_views(self, skus, batch):
        await asyncio.sleep(0.3)
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is busy")
        with open(os.environ["VIEWS"], "a") as file:
            file.writelines(f"{batch} {sku}\\n" for sku in skus)

app.InMemorySource = FileSource
main(Settings, app.create_app)
"""
PRODUCT = {"name": "Analytical engine", "price_cents": 199_900, "stock": 1_000_000}
OUTAGE = 10.0
LONGEST = 0.2


class Running:
    """The service on free ports, with a client of each of its ports."""

    def __init__(self, service: Path, folder: Path, **variables: str) -> None:
        self.log, self.views = folder / "log", folder / "views"
        (folder / "owner.py").write_text(OWNER)
        http, ops = free_ports(2)
        settings = {"HTTP_PORT": str(http), "OPS_PORT": str(ops), "STORAGE_LATENCY": "0", "VIEWS": str(self.views)}
        limits = {f"RATELIMIT_{rule}": "100000000/minute" for rule in ("READS", "WRITES", "CARTS")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(service / ".venv/bin/python"), str(folder / "owner.py")],
                env=settings | limits | variables,
                stdout=log,
                stderr=log,
            )
        self.http = AsyncClient(base_url=f"http://127.0.0.1:{http}", timeout=30, trust_env=False)
        self.ops = AsyncClient(base_url=f"http://127.0.0.1:{ops}", timeout=30, trust_env=False)

    async def close(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()
        await self.http.aclose()
        await self.ops.aclose()

    async def says_of_redis(self) -> tuple[int, Any]:
        """Return readiness' status, and whether it says that Redis is up; (0, None) where it does not answer."""
        try:
            ready = await self.ops.get("/health/ready")
        except HTTPError:
            return 0, None
        return ready.status_code, ready.json()["checks"].get("redis", {}).get("up")

    async def metric(self, line: str) -> float:
        """Return a metric's value."""
        lines = (await self.ops.get("/metrics")).text.splitlines()
        return sum(float(found.rpartition(" ")[2]) for found in lines if found.startswith(line))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_its_own_tests_pass_on_redis(installed: Render, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    make(installed(service_kind="caching"), "test")


@pytest.fixture
async def running(installed: Render, tmp_path: Path, redis_server: Any) -> AsyncIterator[Running]:
    """The service, ready, on a Redis of its own, with one product."""
    service = Running(installed(service_kind="caching"), tmp_path, REDIS_URL=redis_server.url)
    try:
        await until(lambda: _is(service.says_of_redis(), (200, True)))
        assert (await service.http.put("/v1/products/engine", json=PRODUCT)).status_code == 201
        yield service
    finally:
        await service.close()


async def _is(value: Awaitable[object], expected: object) -> bool:
    return await value == expected


class Load:
    """Clients that ask one after another until they are told to stop.

    What is measured beside them, on the operations port of the same process, tells how slow the machine itself is.
    """

    def __init__(self, running: Running) -> None:
        self.running = running
        self.answers: dict[str, list[int]] = {"read": [], "change": [], "cart": []}
        self.slowest = 0.0
        self.slowest_beside = 0.0
        self._ended = False

    @contextlib.asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """Be under load inside the block; raises what a client has met."""
        http = self.running.http
        change: Any = {"json": PRODUCT, "headers": {"if-match": "*"}}
        async with asyncio.TaskGroup() as clients:
            for _ in range(4):
                clients.create_task(self._ask("read", lambda: http.get("/v1/products/engine")))
            clients.create_task(self._ask("read", lambda: http.get("/v1/products")))
            clients.create_task(self._ask("change", lambda: http.put("/v1/products/engine", **change)))
            item = {"sku": "engine", "quantity": 1}
            clients.create_task(self._ask("cart", lambda: http.post("/v1/cart/items", json=item)))
            clients.create_task(self._watch())
            yield
            self._ended = True

    async def _ask(self, kind: str, ask: Callable[[], Awaitable[Any]]) -> None:
        while not self._ended:
            began = time.perf_counter()
            self.answers[kind].append((await ask()).status_code)
            self.slowest = max(self.slowest, time.perf_counter() - began)

    async def _watch(self) -> None:
        while not self._ended:
            began = time.perf_counter()
            await self.running.ops.get("/health/live")
            self.slowest_beside = max(self.slowest_beside, time.perf_counter() - began)


@pytest.mark.parametrize(("begin", "end"), [("kill", "start"), ("pause", "resume")])
async def test_an_outage_of_redis_under_load_costs_no_answer_and_ends_by_itself(
    running: Running, redis_server: Any, begin: str, end: str
) -> None:
    load = Load(running)
    async with load.under_way():
        await until(lambda: _more(running, 'cache_requests_total{cache="product",result="hit"}', 50))
        await asyncio.to_thread(getattr(redis_server, begin))
        await until(lambda: _is(running.says_of_redis(), (200, False)))
        await asyncio.sleep(OUTAGE)
        await asyncio.to_thread(getattr(redis_server, end))
        await until(lambda: _is(running.says_of_redis(), (200, True)))
        await until(lambda: _more(running, 'cache_requests_total{cache="product",result="hit"}', 50))
    assert set(load.answers["read"]) == set(load.answers["change"]) == {200}
    assert set(load.answers["cart"]) <= {200, 429, 503}
    assert load.answers["cart"][-1] == 200
    assert await running.metric('ratelimit_checks_total{by="allow",rule="reads",verdict="allowed"}') > 50
    assert await running.metric('ratelimit_checks_total{by="local",rule="writes",verdict="allowed"}') > 0
    assert await running.metric('ratelimit_checks_total{by="deny",rule="carts",verdict="refused"}') > 0
    assert load.slowest < LONGEST + load.slowest_beside


async def _more(running: Running, metric: str, count: float) -> bool:
    """Return whether the metric grows by so much, without waiting for it forever."""
    before = await running.metric(metric)
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if await running.metric(metric) >= before + count:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_what_changes_during_an_outage_is_what_is_read_after_it(running: Running, redis_server: Any) -> None:
    assert (await running.http.get("/v1/products/engine")).json()["stock"] == PRODUCT["stock"]
    await asyncio.to_thread(redis_server.kill)
    change: Any = {"json": PRODUCT | {"stock": 7}, "headers": {"if-match": "*"}}
    assert (await running.http.put("/v1/products/engine", **change)).status_code == 200
    await asyncio.to_thread(redis_server.start)
    await until(lambda: _is(running.metric("redis_up"), 1.0))
    assert (await running.http.get("/v1/products/engine")).json()["stock"] == 7


async def test_sigterm_loses_no_view_that_waits_to_be_written(running: Running) -> None:
    answered = 0

    async def visit() -> None:
        nonlocal answered
        with contextlib.suppress(HTTPError):  # refused, once it drains
            while True:
                response = await running.http.get("/v1/products/engine")
                assert response.status_code == 200
                answered += 1

    visits = [asyncio.create_task(visit()) for _ in range(8)]
    await until(lambda: _is(_at_least(lambda: answered, 200), True))
    running.process.terminate()
    await asyncio.gather(*visits)
    assert await asyncio.to_thread(running.process.wait, 60) == 0
    written = running.views.read_text().splitlines()
    assert len(written) == answered
    assert '"write_behind.lost"' not in running.log.read_text()
    assert any(json.loads(line)["event"] == "write_behind.failed" for line in running.log.read_text().splitlines())


async def _at_least(value: Callable[[], int], wanted: int) -> bool:
    return value() >= wanted
