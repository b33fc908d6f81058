"""The order of work: messages of one key one after another, those of different keys side by side.

A key has its lane; a lane does one message at a time. A message that must wait leaves the lane with its key: what
follows of this key queues up behind it, the lane's other keys go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from marty_lib._broker import Delivery, wanted

BREATH = 32
L = TypeVar("L")


class Lanes(Generic[L]):
    """Runs deliveries through two functions.

    Args:
        count: how many lanes, which is how many keys are worked on at a time.
        attempt: does a delivery, or returns what `insist` needs to go on with it later.
        insist: does a delivery to the end, however long it takes.
        drop: takes back a delivery whose lease was revoked before it began.
    """

    def __init__(
        self,
        count: int,
        attempt: Callable[[Delivery], Awaitable[L | None]],
        insist: Callable[[Delivery, L], Awaitable[None]],
        drop: Callable[[Delivery], None],
    ) -> None:
        self._attempt = attempt
        self._insist = insist
        self._drop = drop
        self._lanes: list[deque[Delivery]] = [deque() for _ in range(count)]
        self._wakes = [asyncio.Event() for _ in range(count)]
        self._parked: dict[Hashable, deque[Delivery]] = {}
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to work, in tasks of the group."""
        self._group = group
        for lane, wake in zip(self._lanes, self._wakes, strict=True):
            group.create_task(self._work(lane, wake))

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery up."""
        number = hash(delivery.message.key or delivery.position) % len(self._lanes)
        self._lanes[number].append(delivery)
        self._wakes[number].set()

    async def _work(self, lane: deque[Delivery], wake: asyncio.Event) -> None:
        done = 0
        while wanted():
            while lane:
                delivery = lane.popleft()
                key = delivery.message.key
                if delivery.lease.revoked.is_set():
                    self._drop(delivery)
                elif self._parked and key in self._parked:
                    self._parked[key].append(delivery)
                elif (later := await self._attempt(delivery)) is not None:
                    self._park(key or delivery.position, delivery, later)
                done += 1
                if done % BREATH == 0:
                    if not wanted():
                        return
                    await asyncio.sleep(0)  # a handler that never waits must not hold the others up
            wake.clear()
            if wanted():
                await wake.wait()

    def _park(self, key: Hashable, delivery: Delivery, later: L) -> None:
        assert self._group is not None
        waiting = self._parked[key] = deque()
        self._group.create_task(self._unpark(key, delivery, later, waiting))

    async def _unpark(self, key: Hashable, delivery: Delivery, later: L, waiting: deque[Delivery]) -> None:
        """Do a parked delivery and all that queues up behind it."""
        await self._insist(delivery, later)
        while waiting and wanted():
            await self._alone(waiting.popleft())
        del self._parked[key]

    async def _alone(self, delivery: Delivery) -> None:
        if delivery.lease.revoked.is_set():
            self._drop(delivery)
            return
        later = await self._attempt(delivery)
        if later is not None:
            await self._insist(delivery, later)
