"""Write-behind: batches in order, tried until they are written, none lost when the service ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from marty_lib import App
from marty_lib.cache import WriteBehind

Soon = Callable[[Callable[[], object]], Awaitable[None]]
Make = Callable[..., WriteBehind[int]]


class Source:
    """What is written to; it fails as often as it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.keys: list[str] = []
        self.failures = 0

    @property
    def items(self) -> list[int]:
        return [item for batch in self.batches for item in batch]

    async def write(self, items: Sequence[int], key: str) -> None:
        self.keys.append(key)
        if self.failures:
            self.failures -= 1
            raise OSError("not now")
        self.batches.append(list(items))


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def make(source: Source) -> AsyncIterator[Make]:
    """A function that returns a queue before the source."""
    queues = []

    def make(**rest: Any) -> WriteBehind[int]:
        queue = WriteBehind("views", source.write, **{"interval": 0.001, **rest})
        queues.append(queue)
        return queue

    yield make
    for queue in queues:
        await queue.stop()


async def test_items_are_written_in_order_soon(make: Make, source: Source, soon: Soon) -> None:
    queue = make()
    await queue.start()
    for item in range(100):
        await queue.add(item)
    await soon(lambda: len(source.items) == 100)
    assert source.items == list(range(100))
    assert len(queue) == 0


async def test_items_wait_for_others(make: Make, source: Source) -> None:
    queue = make(interval=3600)
    await queue.start()
    for item in range(10):
        await queue.add(item)
    await asyncio.sleep(0)
    assert source.items == []
    await queue.drain()
    assert source.batches == [list(range(10))]


async def test_a_full_batch_does_not_wait(make: Make, source: Source, soon: Soon) -> None:
    queue = make(interval=3600, batch=3)
    await queue.start()
    for item in range(3):
        await queue.add(item)
    await soon(lambda: source.batches == [[0, 1, 2]])


async def test_who_adds_to_a_full_queue_waits(make: Make, source: Source) -> None:
    queue = make(interval=3600, capacity=2)
    await queue.add(1)
    await queue.add(2)
    adding = asyncio.create_task(queue.add(3))
    await asyncio.sleep(0)
    assert not adding.done()
    await queue.drain()
    await adding
    await queue.drain()
    assert source.items == [1, 2, 3]


async def test_a_failed_batch_is_tried_again_under_its_key(make: Make, source: Source, soon: Soon) -> None:
    source.failures = 3
    queue = make()
    await queue.start()
    for item in range(5):
        await queue.add(item)
    await soon(lambda: len(source.items) == 5)
    assert source.items == list(range(5))
    assert len(set(source.keys[:4])) == 1


async def test_draining_tries_until_all_is_written(make: Make, source: Source) -> None:
    source.failures = 2
    queue = make(interval=3600, batch=2)
    for item in range(5):
        await queue.add(item)
    await queue.drain()
    assert source.batches == [[0, 1], [2, 3], [4]]


async def test_draining_lets_the_batch_under_way_finish(make: Make, source: Source, soon: Soon) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def write(items: Sequence[int], key: str) -> None:
        began.set()
        await go_on.wait()
        await source.write(items, key)

    queue = WriteBehind("slow", write, interval=0)
    await queue.start()
    await queue.add(1)
    await began.wait()
    draining = asyncio.create_task(queue.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    go_on.set()
    await draining
    assert source.batches == [[1]]
    await queue.stop()


async def test_stopping_without_draining_writes_too(make: Make, source: Source) -> None:
    queue = make(interval=3600)
    await queue.start()
    await queue.add(1)
    await queue.stop()
    assert source.items == [1]


async def test_what_cannot_be_written_is_said_to_be_lost(source: Source, logs: Any, soon: Soon) -> None:
    source.failures = 1_000_000
    queue = WriteBehind("views", source.write, interval=0)
    await queue.add(1)
    stopping = asyncio.create_task(queue.stop())
    await soon(lambda: source.keys)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert logs.one("write_behind.lost")["items"] == 1


async def test_the_app_writes_what_its_last_requests_added(make_app: Callable[..., App], source: Source) -> None:
    class Server:
        name = "server"
        drain_phase = 1

        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def drain(self) -> None:
            await queue.add(2)

    app = make_app()
    queue = app.add(WriteBehind("views", source.write, interval=3600))
    app.add(Server())
    await app.start()
    await queue.add(1)
    assert await app.stop()
    assert source.items == [1, 2]
