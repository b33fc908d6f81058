"""Many deadlines on one timer: each expires in its own time, whatever the order in which they come."""

from __future__ import annotations

import asyncio
import time

import pytest
from marty_lib._deadlines import Deadlines


async def hang(deadlines: Deadlines, seconds: float) -> float:
    """Hang until the deadline; return when it expired, in seconds of `time.monotonic()`."""
    try:
        async with asyncio.timeout(None) as timeout:
            deadlines.watch(timeout, time.monotonic() + seconds)
            await asyncio.Event().wait()
    except TimeoutError:
        return time.monotonic()
    raise AssertionError("it ended by itself")


async def finish(deadlines: Deadlines, seconds: float) -> None:
    """End long before the deadline."""
    async with asyncio.timeout(None) as timeout:
        deadlines.watch(timeout, time.monotonic() + seconds)
        await asyncio.sleep(0)
        deadlines.forget(timeout)


async def test_each_expires_and_the_earliest_first() -> None:
    deadlines = Deadlines()

    ended = await asyncio.gather(*(hang(deadlines, seconds) for seconds in (0.09, 0.03, 0.06)))

    assert ended[1] < ended[2] < ended[0]


async def test_none_expires_before_its_time() -> None:
    began = time.monotonic()

    assert await hang(Deadlines(), 0.05) >= began + 0.05


async def test_one_that_has_passed_expires_at_once() -> None:
    await hang(Deadlines(), -1.0)


async def test_one_that_is_forgotten_does_not_expire_and_the_next_still_does() -> None:
    deadlines = Deadlines()

    await finish(deadlines, 0.01)
    await hang(deadlines, 0.02)


async def test_a_cancelled_one_is_cancelled_and_has_not_timed_out() -> None:
    task = asyncio.create_task(hang(Deadlines(), 30.0))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_another_loop_has_a_timer_of_its_own() -> None:
    deadlines = Deadlines()

    asyncio.run(finish(deadlines, 30.0))

    asyncio.run(hang(deadlines, 0.01))
