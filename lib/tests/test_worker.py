"""A worker: one iteration after another, backing off, drained and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marty_lib import Worker, context
from marty_lib.worker import LONGEST_PAUSE
from prometheus_client import REGISTRY

Soon = Callable[[Callable[[], object]], Awaitable[None]]


async def nothing() -> None: ...


def iterations(worker: str, outcome: str) -> float:
    labels = {"worker": worker, "outcome": outcome}
    return REGISTRY.get_sample_value("worker_iteration_duration_seconds_count", labels) or 0.0


async def test_it_iterates_until_it_is_drained(soon: Soon) -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1

    worker = Worker("again", work, interval=0.001)
    await worker.start()
    await soon(lambda: calls > 2)
    await worker.drain()
    seen = calls
    await asyncio.sleep(0.01)

    assert calls == seen
    assert iterations("again", "ok") == seen


async def test_draining_lets_the_iteration_under_way_finish() -> None:
    began, go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        await go_on.wait()
        finished.set()

    worker = Worker("drained", work, interval=60)
    await worker.start()
    await began.wait()
    draining = asyncio.create_task(worker.drain())
    await asyncio.sleep(0)
    assert not draining.done()

    go_on.set()
    await draining
    assert finished.is_set()


async def test_draining_does_not_wait_for_the_pause() -> None:
    worker = Worker("resting", nothing, interval=3600)
    await worker.start()
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await worker.drain()


async def test_stopping_cancels_the_iteration_under_way() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    worker = Worker("stopped", work, interval=60)
    await worker.start()
    await began.wait()
    await worker.stop()

    assert cancelled.is_set()


async def test_work_that_swallows_its_cancellation_does_not_keep_it_from_ending(logs: Any) -> None:
    began = asyncio.Event()

    async def stubborn() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("the connection was broken off") from None

    worker = Worker("stubborn", stubborn, interval=3600)
    await worker.start()
    await began.wait()

    async with asyncio.timeout(20):
        await worker.stop()


async def test_a_worker_that_never_started_can_be_drained_and_stopped() -> None:
    worker = Worker("idle", nothing, interval=60)

    await worker.drain()
    await worker.stop()
    await worker.wait()


async def test_it_goes_on_after_a_failure(soon: Soon, logs: Any) -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("not now")

    worker = Worker("failing", work, interval=0.001)
    await worker.start()
    await soon(lambda: calls > 1)
    await worker.drain()

    line = logs.one("worker.failed")
    assert (line["worker"], line["failures"], worker.failures) == ("failing", 1, 0)
    assert "ValueError: not now" in line["exception"]
    assert iterations("failing", "error") == 1


async def test_each_iteration_has_a_context_of_its_own(soon: Soon) -> None:
    seen = []

    async def work() -> None:
        current = context.current()
        assert current is not None
        seen.append(current.trace_id)

    worker = Worker("traced", work, interval=0)
    await worker.start()
    await soon(lambda: len(seen) > 1)
    await worker.drain()

    assert len(set(seen)) == len(seen)


async def test_it_is_unfit_after_several_failures_in_a_row() -> None:
    worker = Worker("unfit", nothing, interval=60, threshold=2)

    worker.failures = 1
    await worker.check()

    worker.failures = 2
    with pytest.raises(RuntimeError, match="2 failures in a row"):
        await worker.check()


@given(st.floats(0, 10_000) | st.integers(0, 10_000), st.integers(1, 10_000))
def test_no_number_of_failures_breaks_the_pause(interval: float, failures: int) -> None:
    worker = Worker("pausing", nothing, interval=interval)
    worker.failures = failures

    assert 0.9 * max(interval, 0.1) <= worker._pause() <= 1.1 * max(interval, LONGEST_PAUSE)


def test_the_pause_doubles_with_each_failure_up_to_a_minute() -> None:
    worker = Worker("pausing", nothing, interval=2)

    for worker.failures, seconds in enumerate([2, 4, 8, 16, 32, 60, 60]):
        assert worker._pause() == pytest.approx(seconds, rel=0.1)


def test_replicas_do_not_work_in_step() -> None:
    worker = Worker("jitter", nothing, interval=10)

    assert len({worker._pause() for _ in range(20)}) > 1
