"""Waiting for what a start needs."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from marty_lib import log
from marty_lib.errors import StartError

PAUSE = 0.5


async def wait_until(attempt: Callable[[], Awaitable[str]], *, seconds: float) -> None:
    """Return when `attempt` returns '' instead of what is wrong; each new reason is logged.

    Args:
        attempt: one try.
        seconds: how long to go on trying.

    Raises:
        StartError: with what is still wrong then.
    """
    ends = time.monotonic() + seconds
    told = ""
    while wrong := await attempt():
        if time.monotonic() >= ends:
            raise StartError(wrong)
        if wrong != told:
            log.get().warning("database.waiting", reason=wrong)
        told = wrong
        # Jitter keeps replicas that started together from asking in step.
        await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))
