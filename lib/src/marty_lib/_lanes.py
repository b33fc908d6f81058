"""The order of work: messages of one key one after another, those of different keys side by side.

A key has a lane from its first message until its last one is finished; one message of a lane is under way at a time. A
worker takes whatever lane is ready, and the next is woken only once the first waits for something: a handler that never
waits is run for message after message by one worker. A message that must wait for its next try keeps its lane, and what
follows of its key with it; it keeps no worker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from marty_lib._broker import Delivery, wanted

BREATH = 32
L = TypeVar("L")


class Lanes(Generic[L]):
    """Runs deliveries through two functions.

    Args:
        workers: how many keys are worked on at a time.
        attempt: does a delivery, or returns what `insist` needs to go on with it later.
        insist: does a delivery to the end, however long it takes.
        drop: takes back a delivery whose lease was revoked before it began.
    """

    def __init__(
        self,
        workers: int,
        attempt: Callable[[Delivery], Awaitable[L | None]],
        insist: Callable[[Delivery, L], Awaitable[None]],
        drop: Callable[[Delivery], None],
    ) -> None:
        self._workers = workers
        self._attempt = attempt
        self._insist = insist
        self._drop = drop
        self._ready: deque[Delivery] = deque()
        self._lanes: dict[str, deque[Delivery] | None] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._called = False
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to work, in tasks of the group."""
        self._group = group
        for _ in range(self._workers):
            group.create_task(self._work())

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery up."""
        key, lanes = delivery.message.key, self._lanes
        if key in lanes:
            lane = lanes[key]
            if lane is None:
                lanes[key] = deque((delivery,))
            else:
                lane.append(delivery)
            return
        if key:
            lanes[key] = None
        self._ready.append(delivery)
        if not self._called:
            self._call()

    def _call(self) -> None:
        """Wake one worker, which wakes the next where there is more to do."""
        while self._idle and not self._called:
            waiting = self._idle.pop()
            if not waiting.done():  # it may have been cancelled
                waiting.set_result(None)
                self._called = True

    async def _work(self) -> None:
        ready, done = self._ready, 0
        while wanted():
            while ready:
                delivery = ready.popleft()
                if ready and not self._called:
                    self._call()
                if delivery.lease.revoked.is_set():
                    self._drop(delivery)
                elif (later := await self._attempt(delivery)) is not None:
                    self._park(delivery, later)
                    continue
                self._follow(delivery.message.key)
                done += 1
                if done % BREATH == 0:
                    if not wanted():
                        return
                    await asyncio.sleep(0)  # a handler that never waits must not hold the others up
            if wanted():
                await self._wait()

    async def _wait(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._idle.append(waiting)
        try:
            await waiting
        finally:
            self._called = False

    def _follow(self, key: str) -> None:
        """Have the next of a key be done, or end its lane."""
        if not key:
            return
        lane = self._lanes[key]
        if lane:
            self._ready.append(lane.popleft())
        else:
            del self._lanes[key]

    def _park(self, delivery: Delivery, later: L) -> None:
        assert self._group is not None
        self._group.create_task(self._unpark(delivery, later))

    async def _unpark(self, delivery: Delivery, later: L) -> None:
        await self._insist(delivery, later)
        self._follow(delivery.message.key)
        if self._ready and not self._called:
            self._call()
