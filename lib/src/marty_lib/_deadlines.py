"""Deadlines of many requests on one timer of the event loop: one for each would cost a tenth of a request."""

from __future__ import annotations

import asyncio
import time

FAR = float("inf")


class Deadlines:
    """Makes `asyncio.timeout(None)` expire at a deadline.

    A timer of the loop is set only where the new deadline is before all others, which with one time-out for all
    requests is seldom.
    """

    def __init__(self) -> None:
        self._pending: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakes = FAR

    def watch(self, timeout: asyncio.Timeout, deadline: float) -> None:
        """Have an entered timeout expire at `deadline`, in seconds of `time.monotonic()`."""
        self._pending[timeout] = deadline
        loop = asyncio.get_running_loop()
        if deadline < self._wakes or loop is not self._loop:
            self._loop = loop
            self._wake_at(deadline)

    def forget(self, timeout: asyncio.Timeout) -> None:
        """Have it expire no more; it need not be watched."""
        self._pending.pop(timeout, None)

    def _wake_at(self, deadline: float) -> None:
        assert self._loop is not None
        self._wakes = deadline
        self._loop.call_later(max(0.0, deadline - time.monotonic()), self._wake)

    def _wake(self) -> None:
        now = time.monotonic()
        for timeout in [each for each, deadline in self._pending.items() if deadline <= now]:
            del self._pending[timeout]
            timeout.reschedule(0)
        self._wakes = FAR
        if self._pending:
            self._wake_at(min(self._pending.values()))
