"""Deadlines of many pieces of work on one timer of the event loop: a timer for each would cost a tenth of a request."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

FAR = float("inf")


class Expires(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """End, because the deadline has passed."""


class Deadlines:
    """The deadlines of all that is under way.

    A timer of the loop is set only where a new deadline is before all others, which with one time-out for all requests
    is seldom.
    """

    def __init__(self) -> None:
        self.pending: dict[Expires, float] = {}
        self.wakes = FAR
        self.loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Expires, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Have work expire, unless it is taken out of `pending` before its deadline."""
        self.pending[work] = deadline
        if deadline < self.wakes or loop is not self.loop:
            self.wake_at(deadline, loop)

    def task(self) -> Any:
        """Return the task that runs now, where no other loop runs work of this.

        To look for it in the loop that was seen last saves Python a system call.
        """
        return asyncio.current_task(self.loop) or asyncio.current_task()

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
        task: that runs the body; by default the one that runs now.
    """

    __slots__ = ("_cancelling", "_deadline", "_deadlines", "_task", "expired")

    def __init__(self, deadlines: Deadlines, deadline: float, task: Any = None) -> None:
        self._deadlines = deadlines
        self._deadline = deadline
        self._task = task
        self.expired = False

    def __enter__(self) -> Limit:
        task = self._task
        if task is None:
            self._task = task = asyncio.current_task()
        self._cancelling = task.cancelling()
        self._deadlines.add(self, self._deadline, task.get_loop())
        return self

    def expire(self) -> None:
        """Cancel the body; its end tells this cancellation from all others."""
        self.expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._deadlines.pending.pop(self, None)
        if self.expired and self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error
