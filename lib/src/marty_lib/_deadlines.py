"""Deadlines of many pieces of work on one timer of the event loop: a timer for each would cost a tenth of a request."""

from __future__ import annotations

import asyncio
import time

FAR = float("inf")


class Deadlines:
    """The deadlines of all that is under way.

    A timer of the loop is set only where a new deadline is before all others, which with one time-out for all requests
    is seldom.
    """

    def __init__(self) -> None:
        self.pending: dict[Limit, float] = {}
        self.wakes = FAR
        self.loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wake_at(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Look at `deadline` what has expired, and not before."""
        if self._timer is not None and loop is self.loop:
            self._timer.cancel()  # it would set another one, so that they became ever more
        self.wakes, self.loop = deadline, loop
        self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for limit in [each for each, deadline in self.pending.items() if deadline <= now]:
            del self.pending[limit]
            limit.expire()
        self.wakes = FAR
        if self.pending:
            self.wake_at(min(self.pending.values()), loop)


class Limit:
    """As `asyncio.timeout_at`, which costs four times as much: the body of its `with` ends with TimeoutError.

    Args:
        deadlines: what it shares its timer with.
        deadline: when, in seconds of `time.monotonic()`.
    """

    __slots__ = ("_cancelling", "_deadline", "_deadlines", "_task", "expired")

    def __init__(self, deadlines: Deadlines, deadline: float) -> None:
        self._deadlines = deadlines
        self._deadline = deadline
        self.expired = False

    def __enter__(self) -> Limit:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        deadlines, deadline, loop = self._deadlines, self._deadline, task.get_loop()
        deadlines.pending[self] = deadline
        if deadline < deadlines.wakes or loop is not deadlines.loop:
            deadlines.wake_at(deadline, loop)
        return self

    def expire(self) -> None:
        """Cancel the body; its end tells this cancellation from all others."""
        self.expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._deadlines.pending.pop(self, None)
        if self.expired and self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error
