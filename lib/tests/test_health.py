"""Live, ready and started: single flight, time-outs, hysteresis, and nothing told that is nobody's business."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from marty_lib import Health
from marty_lib.testing import Clock


class Dependency:
    """A dependency that is up or down, and counts how often it is asked."""

    def __init__(self) -> None:
        self.up = True
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        if not self.up:
            raise ConnectionError("postgresql://orders:hunter2@db/orders")


@pytest.fixture
def health(clock: Clock) -> Health:
    health = Health(clock)
    health.started = True
    return health


@pytest.fixture
def database() -> Dependency:
    return Dependency()


async def asked(health: Health, clock: Clock, times: int) -> list[bool]:
    """Ask `times` times, each after the last result has expired."""
    answers = []
    for _ in range(times):
        clock.advance(1)
        answers.append((await health.ready())[0])
    return answers


async def test_without_dependencies_a_started_service_is_ready(health: Health) -> None:
    assert await health.ready() == (True, {"status": "ready", "checks": {}})


async def test_a_service_is_not_ready_before_it_has_started(clock: Clock) -> None:
    assert await Health(clock).ready() == (False, {"status": "starting", "checks": {}})


async def test_a_draining_service_is_not_ready(health: Health) -> None:
    health.draining = True

    assert await health.ready() == (False, {"status": "draining", "checks": {}})


async def test_the_first_result_counts_at_once(health: Health, database: Dependency) -> None:
    health.add("database", database.check)
    database.up = False

    assert not (await health.ready())[0]


async def test_a_verdict_changes_after_two_results_in_a_row(health: Health, database: Dependency, clock: Clock) -> None:
    health.add("database", database.check)
    assert await asked(health, clock, 1) == [True]

    database.up = False
    assert await asked(health, clock, 3) == [True, False, False]

    database.up = True
    assert await asked(health, clock, 3) == [False, True, True]


async def test_one_failure_among_successes_changes_nothing(health: Health, database: Dependency, clock: Clock) -> None:
    health.add("database", database.check)
    answers = []

    for up in (True, False, True, False, True):
        database.up = up
        answers += await asked(health, clock, 1)

    assert answers == [True] * 5


async def test_the_threshold_can_be_set(health: Health, database: Dependency, clock: Clock) -> None:
    health.add("database", database.check, threshold=3)
    await health.ready()
    database.up = False

    assert await asked(health, clock, 3) == [True, True, False]


async def test_a_result_is_good_for_its_time_to_live(health: Health, database: Dependency, clock: Clock) -> None:
    health.add("database", database.check, ttl=5)
    await health.ready()

    clock.advance(4.9)
    await health.ready()
    assert database.asked == 1

    clock.advance(0.1)
    await health.ready()
    assert database.asked == 2


async def test_many_who_ask_at_once_cause_one_check(health: Health) -> None:
    calls = 0
    go_on = asyncio.Event()

    async def check() -> None:
        nonlocal calls
        calls += 1
        await go_on.wait()

    health.add("database", check)
    asking = [asyncio.create_task(health.ready()) for _ in range(100)]
    await asyncio.sleep(0)
    go_on.set()

    assert {ready for ready, _ in await asyncio.gather(*asking)} == {True}
    assert calls == 1


async def test_when_one_who_asks_leaves_another_gets_the_answer(health: Health) -> None:
    go_on = asyncio.Event()
    health.add("database", go_on.wait)
    first, second = (asyncio.create_task(health.ready()) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.wait({first})
    go_on.set()

    assert (await second)[0]


async def test_a_check_that_hangs_has_failed(health: Health) -> None:
    health.add("database", asyncio.Event().wait, timeout=0.01)

    assert (await health.ready())[1]["checks"]["database"]["reason"] == "timeout"


async def test_checks_run_together(health: Health) -> None:
    both = asyncio.Barrier(2)
    health.add("database", both.wait, timeout=10)
    health.add("cache", both.wait, timeout=10)

    assert (await health.ready())[0]


async def test_an_optional_dependency_is_shown_only(health: Health, database: Dependency) -> None:
    health.add("cache", database.check, required=False)
    database.up = False

    ready, body = await health.ready()

    assert ready
    assert body["checks"] == {"cache": {"up": False, "required": False, "reason": "ConnectionError"}}


async def test_the_answer_holds_nothing_of_the_exceptions_text(health: Health, database: Dependency) -> None:
    health.add("database", database.check)
    database.up = False

    _, body = await health.ready()

    assert "hunter2" not in str(body)
    assert body["checks"]["database"]["reason"] == "ConnectionError"


async def test_a_cancelled_check_has_failed(health: Health) -> None:
    async def check() -> None:
        raise asyncio.CancelledError

    health.add("database", check)

    assert not (await health.ready())[0]


def test_two_checks_cannot_share_a_name(health: Health, database: Dependency) -> None:
    health.add("database", database.check)

    with pytest.raises(ValueError, match="choose another name"):
        health.add("database", database.check)


async def test_a_change_is_logged_once(health: Health, database: Dependency, clock: Clock, logs: Any) -> None:
    health.add("database", database.check)
    await asked(health, clock, 3)
    database.up = False
    await asked(health, clock, 3)

    changes = [(line["up"], line["level"]) for line in logs.lines if line["event"] == "health.changed"]

    assert changes == [(True, "info"), (False, "warning")]


async def test_verdicts_ask_nobody(health: Health, database: Dependency) -> None:
    health.add("database", database.check)

    assert (health.verdicts(), database.asked) == ({"database": False}, 0)


async def test_a_real_server_that_goes_away_and_comes_back(
    health: Health, clock: Clock, free_port: int, soon: Callable[..., Awaitable[None]]
) -> None:
    asking = 0
    answering: list[asyncio.StreamWriter] = []

    async def check() -> None:
        nonlocal asking
        _, writer = await asyncio.open_connection("127.0.0.1", free_port)
        asking += 1
        writer.close()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        answering.append(writer)

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(answer, "127.0.0.1", free_port)

    health.add("database", check)
    server = await listen()
    assert await asked(health, clock, 1) == [True]

    server.close()
    assert (await asked(health, clock, 2))[-1] is False

    server = await listen()
    assert (await asked(health, clock, 2))[-1] is True
    await soon(lambda: len(answering) == asking)
    for writer in answering:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    server.close()
