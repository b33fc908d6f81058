"""What keeps one slow or failing neighbour from taking this service down: retry, breaker, deadline, bulkhead.

async with deadline(2.0), bulkhead:
    async for attempt in retrying():
        with attempt, breaker:
            await ask()
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import stamina
from prometheus_client import Counter

from marty_lib import context
from marty_lib._breaker import CODE as CIRCUIT_OPEN
from marty_lib._breaker import Breaker as Breaker
from marty_lib._breaker import is_failure as is_failure
from marty_lib.errors import DeadlineExceeded, RateLimited, ServiceError, Unavailable

REFUSED = Counter("bulkhead_refused_total", "Work refused because a bulkhead was full.", ["bulkhead"])


def transient(error: Exception) -> bool | float:
    """Return whether the same work may do better in a moment, or the seconds that the error asks to wait."""
    if not isinstance(error, (RateLimited, Unavailable)) or error.code == CIRCUIT_OPEN:
        return False
    seconds = _retry_after(error)
    left = context.remaining()
    return seconds if seconds is not None and (left is None or seconds < left) else seconds is None


def _retry_after(error: ServiceError) -> float | None:
    value = next((value for name, value in error.headers.items() if name.lower() == "retry-after"), "")
    return float(value) if value.isdecimal() else None


def retrying(*, on: Any = transient, attempts: int = 3, timeout: float = 10.0, first_wait: float = 0.1) -> Any:
    """Return stamina's attempts, with growing pauses and jitter in between, within the deadline of the work under way.

    For work only that may be done twice: `async for attempt in retrying(): with attempt: ...`.

    Args:
        on: exceptions, or a function, that say after which error it is tried again.
        attempts: at most.
        timeout: seconds after which no further attempt begins.
        first_wait: seconds of the first pause, without jitter.
    """
    left = context.remaining()
    if left == 0.0:
        attempts = 1
    elif left is not None:
        timeout = min(timeout, left)
    return stamina.retry_context(on=on, attempts=attempts, timeout=timeout, wait_initial=first_wait)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Give what is inside some time, or what is left of the time of the work under way where that is less.

    What is inside tells it on to the services that it asks.

    Args:
        seconds: until what is inside is ended.

    Raises:
        DeadlineExceeded: where it took longer.
    """
    request = context.current() or context.new()
    ends = time.monotonic() + seconds
    if request.deadline is not None:
        ends = min(ends, request.deadline)
    try:
        with context.use(request._replace(deadline=ends)):
            async with asyncio.timeout(ends - time.monotonic()) as timer:
                yield
    except TimeoutError as error:
        if timer.expired():
            raise DeadlineExceeded("The time for this is over.") from error
        raise


class Bulkhead:
    """At most so much at once; use it around the work: `async with bulkhead: ...`.

    Args:
        name: as shown in errors and metrics.
        limit: how much is done at once.
        waiting: how much may wait for its turn; more is refused.
    """

    def __init__(self, name: str, limit: int, *, waiting: int = 0) -> None:
        self.name = name
        self._limit = limit
        self._waiting = waiting
        self._active = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._active < self._limit:
            self._active += 1
            return
        if len(self._queue) >= self._waiting:
            REFUSED.labels(self.name).inc()
            raise Unavailable(f"{self.name} has too much to do: ask again.", code="bulkhead-full")
        await self._turn()

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            else:
                self._queue.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        """Hand the place to who waits longest, or give it up."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._active -= 1
