"""Many deadlines on one timer: each expires in its own time, whatever the order in which they come."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
from marty_lib._deadlines import Deadlines, Limit


async def hang(deadlines: Deadlines, seconds: float) -> float:
    """Hang until the deadline; return when it expired, in seconds of `time.monotonic()`."""
    try:
        with Limit(deadlines, time.monotonic() + seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return time.monotonic()
    raise AssertionError("it ended by itself")


async def finish(deadlines: Deadlines, seconds: float) -> None:
    """End long before the deadline."""
    with Limit(deadlines, time.monotonic() + seconds):
        await asyncio.sleep(0)


async def test_each_expires_and_the_earliest_first() -> None:
    deadlines = Deadlines()

    ended = await asyncio.gather(*(hang(deadlines, seconds) for seconds in (0.09, 0.03, 0.06)))

    assert ended[1] < ended[2] < ended[0]


async def test_none_expires_before_its_time() -> None:
    began = time.monotonic()

    assert await hang(Deadlines(), 0.05) >= began + 0.05


async def test_one_that_has_passed_expires_at_once() -> None:
    await hang(Deadlines(), -1.0)


async def test_one_that_has_ended_does_not_expire_and_the_next_still_does() -> None:
    deadlines = Deadlines()

    await finish(deadlines, 0.01)
    await hang(deadlines, 0.02)


async def test_a_cancelled_one_is_cancelled_and_has_not_timed_out() -> None:
    task = asyncio.create_task(hang(Deadlines(), 30.0))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_that_is_cancelled_when_it_expires_is_cancelled() -> None:
    task = asyncio.create_task(hang(Deadlines(), -1.0))
    asyncio.get_running_loop().call_later(0, task.cancel)
    await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_goes_on_after_the_deadline_is_no_longer_being_cancelled() -> None:
    async def stubborn() -> bool:
        with Limit(Deadlines(), time.monotonic() - 1) as limit, suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        return limit.expired and not task.cancelling()

    assert await asyncio.create_task(stubborn())


async def test_an_error_of_the_body_stays_what_it_was() -> None:
    async def fail() -> None:
        with Limit(Deadlines(), time.monotonic() - 1):
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await asyncio.create_task(fail())


async def test_the_inner_one_of_two_leaves_the_outer_one_alone() -> None:
    deadlines = Deadlines()

    with Limit(deadlines, time.monotonic() + 30.0) as outer:
        await hang(deadlines, 0.01)

    assert not outer.expired


async def test_there_is_one_timer_however_many_deadlines_come_before_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), list[asyncio.TimerHandle]()
    set_timer = loop.call_later

    def call_later(*args: Any) -> asyncio.TimerHandle:
        timers.append(set_timer(*args))
        return timers[-1]

    monkeypatch.setattr(loop, "call_later", call_later)
    deadlines = Deadlines()

    await asyncio.gather(*(finish(deadlines, seconds) for seconds in (40.0, 30.0, 20.0, 10.0)))

    assert [timer.cancelled() for timer in timers] == [True, True, True, False]


def test_another_loop_has_a_timer_of_its_own() -> None:
    deadlines = Deadlines()

    asyncio.run(finish(deadlines, 30.0))

    asyncio.run(hang(deadlines, 0.01))
