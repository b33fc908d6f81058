"""Locks: one holder at a time, renewed, lost loudly; a token that fences out whoever did not notice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from marty_lib import Unavailable
from marty_lib.lock import Lock, LockBusy, LockLost
from marty_lib.redis import Redis

from .redis_kit import connected

Soon = Callable[[Callable[[], object]], Awaitable[None]]

HOLDER = """
import asyncio, sys
from marty_lib.lock import Lock, LockLost
from marty_lib.redis import Redis, RedisSettings

async def main():
    redis = Redis(RedisSettings(url=sys.argv[1], timeout=10))
    try:
        async with Lock(redis, "stock", ttl=0.5).hold("42") as lease:
            print(lease.token, flush=True)
            await asyncio.Event().wait()
    except LockLost:
        print("lost", flush=True)
    await redis.stop()

asyncio.run(main())
"""


class FencedStore:
    """What is protected: it refuses a token that is lower than one it has seen."""

    def __init__(self) -> None:
        self.highest = 0

    def write(self, token: int) -> bool:
        if token < self.highest:
            return False
        self.highest = token
        return True


async def test_a_lock_has_one_holder_at_a_time(redis: Redis) -> None:
    lock = Lock(redis, "stock")
    async with lock.hold("42"), lock.hold("43"):
        with pytest.raises(LockBusy):
            async with lock.hold("42"):
                pytest.fail("two hold it")
    async with lock.hold("42") as lease:
        assert lease.remaining > 0


async def test_who_waits_gets_it_when_it_is_given_back(redis: Redis) -> None:
    lock, order = Lock(redis, "stock", wait=20), []

    async def work(name: str) -> None:
        async with lock.hold("42"):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(*(work(name) for name in "abcd"))
    assert [event[2:] for event in order] == ["in", "out"] * 4
    assert len({event[0] for event in order}) == 4


async def test_tokens_grow_over_expiry_and_the_loss_of_all_data(redis: Redis) -> None:
    lock, tokens = Lock(redis, "stock"), []
    for ending in (None, "lock:stock:42", "all", None):
        async with lock.hold("42") as lease:
            tokens.append(lease.token)
        if ending == "all":
            await redis.client.flushdb()
        elif ending:
            await redis.client.delete(ending)
    async with lock.hold("another") as lease:
        tokens.append(lease.token)
    assert tokens == sorted(set(tokens))


async def test_work_that_takes_longer_keeps_its_lock(redis: Redis, soon: Soon) -> None:
    lock = Lock(redis, "stock", ttl=1.0)
    async with lock.hold("42") as lease:
        for _ in range(3):
            seen = lease._until
            await soon(lambda seen=seen: lease._until > seen)  # type: ignore[misc]
        assert await redis.client.pttl("lock:stock:42") > 0


async def test_the_loss_cancels_the_work(redis: Redis) -> None:
    steps = []

    async def work() -> None:
        async with Lock(redis, "stock", ttl=0.6).hold("42") as lease:
            await redis.client.set("lock:stock:42", "another")
            try:
                await asyncio.Event().wait()
            finally:
                steps.append(lease.remaining)

    with pytest.raises(LockLost):
        await work()
    assert steps == [0.0]
    assert await redis.client.get("lock:stock:42") == b"another"
    await asyncio.sleep(0)  # the task goes on: nobody has cancelled it


async def test_a_loss_that_the_work_did_not_notice_is_told_at_its_end(redis: Redis) -> None:
    with pytest.raises(LockLost):
        async with Lock(redis, "stock").hold("42"):
            await redis.client.delete("lock:stock:42")


async def test_an_error_of_the_work_is_not_hidden_by_the_loss(redis: Redis) -> None:
    async def work() -> None:
        async with Lock(redis, "stock").hold("42"):
            await redis.client.delete("lock:stock:42")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await work()


async def test_a_cancelled_holder_gives_the_lock_back(redis: Redis) -> None:
    lock, held = Lock(redis, "stock"), asyncio.Event()

    async def work() -> None:
        async with lock.hold("42"):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with lock.hold("42"):
        pass


async def test_nobody_gets_a_lock_without_redis(opened: AsyncExitStack, free_port: int) -> None:
    redis = connected(opened, f"redis://127.0.0.1:{free_port}")
    with pytest.raises(Unavailable):
        async with Lock(redis, "stock").hold("42"):
            pytest.fail("there is no Redis")


async def test_an_outage_that_lasts_costs_the_lock(opened: AsyncExitStack, redis_server: Any) -> None:
    redis = connected(opened, redis_server.url, timeout=2.0)

    async def work() -> None:
        async with Lock(redis, "stock", ttl=0.5).hold("42"):
            redis_server.kill()
            await asyncio.Event().wait()

    with pytest.raises(LockLost):
        await work()


async def test_a_short_outage_does_not(opened: AsyncExitStack, redis_server: Any, soon: Soon) -> None:
    redis = connected(opened, redis_server.url, timeout=2.0)
    async with Lock(redis, "stock", ttl=30).hold("42"):
        await asyncio.to_thread(redis_server.restart)
        await soon(lambda: redis.up)


async def test_a_holder_that_stalls_is_fenced_out_and_told(opened: AsyncExitStack, redis_url: str) -> None:
    store = FencedStore()
    redis = connected(opened, redis_url)
    stalled = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, redis_url, stdout=subprocess.PIPE, stderr=None
    )
    try:
        assert stalled.stdout is not None
        old = int(await stalled.stdout.readline())
        assert store.write(old)
        stalled.send_signal(signal.SIGSTOP)
        async with Lock(redis, "stock", wait=30).hold("42") as lease:
            assert store.write(lease.token)
            stalled.send_signal(signal.SIGCONT)
            assert await stalled.stdout.readuntil(b"lost\n")
            assert not store.write(old)
        assert await stalled.wait() == 0
    finally:
        if stalled.returncode is None:
            stalled.kill()
            await stalled.wait()
