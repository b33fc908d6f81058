"""Write-behind: what may be written later waits in a bounded queue, and is written before the service ends."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar
from uuid import uuid4

from prometheus_client import Counter, Gauge

from marty_lib import log

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0

WAITING = Gauge("write_behind_waiting", "Items that wait to be written.", ["queue"])
WRITTEN = Counter("write_behind_written", "Items written.", ["queue"])
FAILURES = Counter("write_behind_failures", "Writes that failed and are tried again.", ["queue"])

T = TypeVar("T")


class WriteBehind(Generic[T]):
    """Writes items in batches, soon and in order; a component, to be added before the servers whose requests fill it.

    Each batch is tried until it is written. Add it after what it writes to: it drains when the servers have answered
    their last request, and what it writes to is stopped after it.

    Args:
        name: of the queue, as shown in logs and metrics.
        write: writes a batch. It gets the items and a key that stays the same when the batch is tried again, so that
            the source can tell a batch that it has had already.
        interval: seconds for which items wait for others.
        batch: items in one write at most.
        capacity: items that wait at most; who adds more waits.
    """

    drain_phase = 2  # after the servers, whose last requests may add

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[T], str], Awaitable[object]],
        *,
        interval: float = 1.0,
        batch: int = 500,
        capacity: int = 10_000,
    ) -> None:
        self.name = name
        self.failures = 0
        self._write = write
        self._interval = interval
        self._batch = batch
        self._room = asyncio.Semaphore(capacity)
        self._waiting: deque[T] = deque()
        self._begun: list[T] = []
        self._key = ""
        self._closing = asyncio.Event()
        self._full = asyncio.Event()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        WAITING.labels(name).set_function(lambda: len(self))

    def __len__(self) -> int:
        return len(self._waiting) + len(self._begun)

    async def add(self, item: T) -> None:
        """Have an item written later; wait where too many wait already."""
        await self._room.acquire()
        self._waiting.append(item)
        self._filled.set()
        if len(self._waiting) >= self._batch:
            self._full.set()

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._loop(), name=f"write-behind-{self.name}")

    async def drain(self) -> None:
        """Write all that waits, however often it takes."""
        for event in (self._closing, self._filled, self._full):
            event.set()
        if self._task is not None:
            await asyncio.shield(self._task)
        while len(self):
            await self._write_batch()
            if self.failures:
                await asyncio.sleep(self._pause())

    async def stop(self) -> None:
        """Write what draining has left, while there is time; log what is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        try:
            await self.drain()
        finally:
            if len(self):
                log.get().error("write_behind.lost", queue=self.name, items=len(self))

    async def _loop(self) -> None:
        while not self._closing.is_set():
            await self._filled.wait()
            await self._rest()
            if len(self):
                await self._write_batch()

    async def _rest(self) -> None:
        """Wait for more items, no longer than it takes to fill a batch; after a failure for the source to recover."""
        event, seconds = (self._closing, self._pause()) if self.failures else (self._full, self._interval)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    async def _write_batch(self) -> None:
        if not self._begun:
            self._begun = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._key = uuid4().hex
        try:
            await self._write(self._begun, self._key)
        except Exception:
            self.failures += 1
            FAILURES.labels(self.name).inc()
            log.get().exception("write_behind.failed", queue=self.name, failures=self.failures)
        else:
            self._done()

    def _done(self) -> None:
        self.failures = 0
        WRITTEN.labels(self.name).inc(len(self._begun))
        for _ in self._begun:
            self._room.release()
        self._begun = []
        if len(self._waiting) < self._batch:
            self._full.clear()
        if not self._waiting:
            self._filled.clear()

    def _pause(self) -> float:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        return longest * random.uniform(0.5, 1.0)
