"""The application in process: order, phases, and every way in which a part can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from marty_lib import App, Component, DrainSettings, OpsSettings, ServiceSettings, StartError, Worker, _app
from marty_lib.testing import status

Soon = Callable[[Callable[[], object]], Awaitable[None]]
MakeApp = Callable[..., App]


class Part:
    """A component that tells what was done to it, and fails where it is told to."""

    def __init__(self, name: str, told: list[str], **does: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.told = told
        self.does = does

    async def start(self) -> None:
        await self._do("start")

    async def stop(self) -> None:
        await self._do("stop")

    async def _do(self, what: str) -> None:
        self.told.append(f"{what} {self.name}")
        if what in self.does:
            await self.does[what]()


class Draining(Part):
    """A component with work under way."""

    def __init__(self, name: str, told: list[str], phase: int = 1, **does: Callable[[], Awaitable[object]]) -> None:
        super().__init__(name, told, **does)
        self.drain_phase = phase

    async def drain(self) -> None:
        await self._do("drain")
        self.told.append(f"drained {self.name}")


class Ending(Part):
    """A component that may end by itself."""

    async def wait(self) -> None:
        await self.does["wait"]()


class Checked(Part):
    """A component that readiness asks."""

    async def check(self) -> None:
        await self.does["check"]()


async def hang() -> None:
    await asyncio.Event().wait()


async def nothing() -> None: ...


async def fail() -> None:
    raise ValueError("it broke")


async def refuse() -> None:
    raise StartError("set DATABASE_URL to a server that answers")


async def cancelled() -> None:
    raise asyncio.CancelledError


@pytest.fixture
def told() -> list[str]:
    """What was done to the parts, in order."""
    return []


@pytest.fixture
def started(soon: Soon) -> Callable[[App], Awaitable[asyncio.Task[int]]]:
    """A function that serves an application and returns the task once all has started."""

    async def start(app: App) -> asyncio.Task[int]:
        serving = asyncio.create_task(app.serve())
        await soon(lambda: app.health.started or serving.done())
        await asyncio.sleep(0)
        return serving

    return start


Started = Callable[[App], Awaitable[asyncio.Task[int]]]


def up(app: App, path: str = "live") -> Awaitable[int]:
    return asyncio.to_thread(status, f"http://127.0.0.1:{app.ops.port}/health/{path}")


def test_the_parts_of_the_tests_are_components(told: list[str]) -> None:
    part: Component = Part("a", told)

    assert part.name == "a"


async def test_parts_start_in_order_and_stop_in_reverse(make_app: MakeApp, told: list[str]) -> None:
    app = make_app()
    for name in "abc":
        app.add(Part(name, told))

    await app.start()
    await app.stop()

    assert told == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


def test_add_returns_what_it_was_given(make_app: MakeApp, told: list[str]) -> None:
    part = Part("a", told)

    assert make_app().add(part) is part


def test_its_components_can_be_listed(make_app: MakeApp, told: list[str]) -> None:
    app = make_app()
    app.add(Part("a", told))

    assert [component.name for component in app.components] == ["tracing", "a"]


async def test_the_operations_port_answers_while_parts_start(make_app: MakeApp, told: list[str], soon: Soon) -> None:
    app = make_app()
    app.add(Part("a", told, start=hang))
    starting = asyncio.create_task(app.start())
    await soon(lambda: told)

    assert [await up(app, path) for path in ("live", "startup", "ready")] == [200, 503, 503]

    starting.cancel()
    await asyncio.wait({starting})
    assert await up(app) == 0


async def test_a_failing_start_stops_what_was_started(make_app: MakeApp, told: list[str]) -> None:
    app = make_app()
    for name, does in (("a", nothing), ("b", refuse), ("c", nothing)):
        app.add(Part(name, told, start=does))

    with pytest.raises(StartError, match="set DATABASE_URL"):
        await app.start()

    assert told == ["start a", "start b", "stop b", "stop a"]
    assert await up(app) == 0


async def test_a_check_of_a_part_is_asked_by_readiness(make_app: MakeApp) -> None:
    app = make_app()
    app.add(Checked("database", [], check=fail))

    await app.start()
    assert (await app.health.ready())[1]["checks"] == {
        "database": {"up": False, "required": True, "reason": "ValueError"}
    }
    await app.stop()


async def test_workers_drain_before_servers_and_servers_together(make_app: MakeApp, told: list[str]) -> None:
    app = make_app()
    for name, phase in (("http", 1), ("consumer", 0), ("grpc", 1), ("worker", 0)):
        app.add(Draining(name, told, phase, drain=lambda: asyncio.sleep(0)))
    await app.start()
    told.clear()

    assert await app.stop()

    assert told[:8] == [
        "drain consumer", "drain worker", "drained consumer", "drained worker",
        "drain http", "drain grpc", "drained http", "drained grpc",
    ]  # fmt: skip
    assert told[8:] == ["stop worker", "stop grpc", "stop consumer", "stop http"]


async def test_a_stopping_service_is_unready_before_it_refuses_work(
    make_app: MakeApp, told: list[str], soon: Soon
) -> None:
    app = make_app()
    app.add(Draining("http", told))
    await app.start()

    stopping = asyncio.create_task(app.stop(delay=3600))
    await soon(lambda: app.health.draining)

    assert [await up(app, path) for path in ("live", "ready")] == [200, 503]
    assert "drain http" not in told

    app._on_signal()
    app._on_signal()
    await stopping


@pytest.mark.parametrize("does", [hang, fail, cancelled])
async def test_a_stop_that_goes_wrong_keeps_no_other_from_stopping(
    make_app: MakeApp, told: list[str], logs: Any, monkeypatch: pytest.MonkeyPatch, does: Any
) -> None:
    monkeypatch.setattr(_app, "STOP_TIMEOUT", 0.05)
    app = make_app()
    app.add(Part("a", told))
    app.add(Part("b", told, stop=does))
    await app.start()

    await app.stop()
    await app.ops.stop()  # which needs longer than we have left it

    assert told[2:] == ["stop b", "stop a"]
    [line] = [line for line in logs.lines if line["event"] == "stop.failed" and line["component"] == "b"]
    assert line["late"] == (does is hang)


@pytest.mark.parametrize("does", [fail, cancelled])
async def test_a_drain_that_goes_wrong_is_not_finished(
    make_app: MakeApp, told: list[str], logs: Any, does: Any
) -> None:
    app = make_app()
    app.add(Draining("a", told, drain=does))
    app.add(Draining("b", told))
    await app.start()

    assert not await app.stop()

    assert logs.one("drain.failed")["component"] == "a"
    assert {"drained b", "stop a", "stop b"} <= set(told)


async def test_a_drain_that_takes_too_long_ends_with_1_and_says_so(
    told: list[str], logs: Any, started: Started
) -> None:
    settings = ServiceSettings(ops=OpsSettings(port=0), drain=DrainSettings(timeout=0.05))
    app = App(settings, name="orders", version="1.2.3")
    app.add(Draining("http", told, drain=hang))

    serving = await started(app)
    app._on_signal()

    assert await serving == 1
    assert logs.one("drain.failed").items() >= {"component": "http", "late": True, "level": "error"}.items()
    assert logs.one("service.stopped")["finished"] is False


async def test_time_is_shared_by_all_phases(told: list[str]) -> None:
    settings = ServiceSettings(ops=OpsSettings(port=0), drain=DrainSettings(timeout=0.05))
    app = App(settings, name="orders", version="1.2.3")
    app.add(Draining("worker", told, 0, drain=hang))
    app.add(Draining("http", told, 1, drain=hang))
    await app.start()

    async with asyncio.timeout(10):
        assert not await app.stop()

    assert told[-2:] == ["stop http", "stop worker"]


async def test_a_signal_ends_it_with_0(make_app: MakeApp, told: list[str], started: Started, logs: Any) -> None:
    app = make_app()
    app.add(Draining("http", told))

    serving = await started(app)
    app._on_signal()

    assert await serving == 0
    assert told == ["start http", "drain http", "drained http", "stop http"]
    assert logs.one("service.stopping")["because"] == "signal"


async def test_a_second_signal_gives_up_the_drain(
    make_app: MakeApp, told: list[str], started: Started, soon: Soon
) -> None:
    app = make_app()
    app.add(Draining("http", told, drain=hang))

    serving = await started(app)
    app._on_signal()
    await soon(lambda: "drain http" in told)
    app._on_signal()

    assert await serving == 1
    assert told[-1] == "stop http"


async def test_a_given_up_drain_is_cancelled(make_app: MakeApp, told: list[str], started: Started, soon: Soon) -> None:
    ended = asyncio.Event()

    async def drain() -> None:
        try:
            await hang()
        finally:
            ended.set()

    app = make_app()
    app.add(Draining("http", told, drain=drain))
    serving = await started(app)
    app._on_signal()
    await soon(lambda: "drain http" in told)
    app._on_signal()
    await serving

    assert ended.is_set()


async def test_a_signal_while_starting_stops_what_was_started(make_app: MakeApp, told: list[str], soon: Soon) -> None:
    app = make_app()
    app.add(Part("a", told))
    app.add(Part("b", told, start=hang))
    serving = asyncio.create_task(app.serve())
    await soon(lambda: "start b" in told)

    app._on_signal()

    assert await serving == 0
    assert told == ["start a", "start b", "stop b", "stop a"]


async def test_a_start_that_is_cancelled_by_itself_is_an_error(make_app: MakeApp, told: list[str]) -> None:
    app = make_app()
    app.add(Part("a", told, start=cancelled))

    with pytest.raises(StartError):
        await app.serve()


@pytest.mark.parametrize("does", [nothing, fail, cancelled])
async def test_a_part_that_ends_by_itself_ends_the_service_with_1(
    make_app: MakeApp, told: list[str], logs: Any, does: Any
) -> None:
    app = make_app()
    app.add(Ending("consumer", told, wait=does))

    assert await app.serve() == 1

    assert logs.one("service.stopping")["because"] == "consumer"
    assert told[-1] == "stop consumer"


async def test_the_error_that_ended_a_part_is_logged(make_app: MakeApp, told: list[str], logs: Any) -> None:
    app = make_app()
    app.add(Ending("consumer", told, wait=fail))

    await app.serve()

    assert "ValueError: it broke" in logs.one("component.failed")["exception"]


async def test_a_worker_that_is_cancelled_from_within_ends_the_service_in_order(
    make_app: MakeApp, told: list[str]
) -> None:
    app = make_app()
    app.add(Part("database", told))
    app.add(Worker("ship", cancelled, interval=60))

    assert await app.serve() == 1
    assert told == ["start database", "stop database"]


async def test_stopping_twice_does_no_harm(make_app: MakeApp, told: list[str]) -> None:
    app = make_app()
    app.add(Part("a", told))
    await app.start()

    await app.stop()
    await app.stop()

    assert told == ["start a", "stop a"]
