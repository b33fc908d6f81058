"""Single flight: those who want the same at the same time share one piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """Work under way, by key; it goes on where one of those who wait for it is cancelled."""

    def __init__(self) -> None:
        self._current: dict[str, asyncio.Task[T]] = {}
        self._all: set[asyncio.Task[T]] = set()

    async def join(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of the work under way for `key`, begun where there is none."""
        return await asyncio.shield(self.begin(key, work))

    def begin(self, key: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Return the task of the work for `key`, begun where there is none."""
        task = self._current.get(key)
        if task is None:
            task = self._current[key] = asyncio.create_task(self._fly(key, work))
            self._all.add(task)
            task.add_done_callback(self._landed)
        return task

    def under_way(self, key: str) -> bool:
        """Return whether there is work under way for `key`."""
        return key in self._current

    def forget(self, key: str) -> None:
        """Have those who come from now on begin anew: what is under way may bring what is no longer true."""
        self._current.pop(key, None)

    async def close(self) -> None:
        """Cancel what is under way."""
        for task in self._all:
            task.cancel()
        if self._all:
            await asyncio.wait(set(self._all))

    async def _fly(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        finally:
            if self._current.get(key) is asyncio.current_task():
                del self._current[key]

    def _landed(self, task: asyncio.Task[T]) -> None:
        self._all.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though nobody may be waiting any more
