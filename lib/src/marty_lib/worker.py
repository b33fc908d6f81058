"""A loop that does one piece of work after another until the service stops."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from marty_lib import context, log, metrics

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 60.0


class Worker:
    """Calls a function again and again, with a pause in between.

    An iteration that raises is logged and counted; the pause then doubles with each failure in a row, up to a minute.
    Readiness fails while `threshold` iterations in a row have failed.

    Args:
        name: of the worker, as shown in logs and metrics.
        work: one iteration.
        interval: seconds between two iterations.
        threshold: failures in a row after which the service is not ready.
    """

    drain_phase = 0

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        interval: float,
        threshold: int = 3,
    ) -> None:
        self.name = name
        self.failures = 0
        self._work = work
        self._interval = interval
        self._threshold = threshold
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin the first iteration at once."""
        self._task = asyncio.create_task(self._loop(), name=f"worker-{self.name}")

    async def wait(self) -> None:
        """Return when the loop has ended."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def check(self) -> None:
        """Raise where the last iterations have all failed."""
        if self.failures >= self._threshold:
            raise RuntimeError(f"{self.failures} failures in a row")

    async def drain(self) -> None:
        """Let the iteration under way finish and begin no other."""
        self._stopping.set()
        await self.wait()

    async def stop(self) -> None:
        """End the loop, an iteration under way included."""
        # Work may swallow its cancellation, as drivers of databases do that raise an error of their own instead.
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _loop(self) -> None:
        while not self._stopping.is_set():
            with context.use(context.new()):
                await self._iterate()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _pause(self) -> float:
        pause = self._interval
        if self.failures:
            # The exponent is bounded because a float is.
            longer = max(pause, SHORTEST_PAUSE) * 2.0 ** min(self.failures, 16)
            pause = max(pause, min(LONGEST_PAUSE, longer))
        # Jitter keeps replicas that started together from working in step.
        return pause * random.uniform(0.9, 1.1)

    async def _iterate(self) -> None:
        began = time.perf_counter()
        outcome = "ok"
        try:
            await self._work()
            self.failures = 0
        except Exception:
            outcome = "error"
            self.failures += 1
            log.get().exception("worker.failed", worker=self.name, failures=self.failures)
        metrics.WORKER_DURATION.observe(time.perf_counter() - began, self.name, outcome)
