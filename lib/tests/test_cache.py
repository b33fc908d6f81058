"""Caches: what comes from where, once for all who ask, and what no failure of Redis or of the source may do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from marty_lib import NotFound, Unavailable
from marty_lib.cache import Cache, CachePolicy
from marty_lib.redis import Redis
from prometheus_client import REGISTRY
from redis.exceptions import TimeoutError as RedisTimeout

from .redis_kit import connected

Soon = Callable[[Callable[[], object]], Awaitable[None]]


@dataclass(frozen=True)
class Product:
    name: str
    price: int
    revision: int = 1


class Source:
    """Where products come from."""

    def __init__(self) -> None:
        self.product: Product | None = Product("engine", 3)
        self.error: Exception | None = None
        self.calls = 0
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def load(self) -> Product | None:
        self.calls += 1
        self.asked.set()
        found = self.product
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return found


class WallClock:
    """The time of the day, which can be moved on."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.fixture(params=["embedded", "server"])
def redis(request: pytest.FixtureRequest, opened: AsyncExitStack) -> Redis:
    """Redis in this process, and a real one, with a prefix of its keys."""
    url = "memory://" if request.param == "embedded" else request.getfixturevalue("redis_url")
    return connected(opened, url, prefix="shop")


@pytest.fixture
def make_cache(redis: Redis, opened: AsyncExitStack) -> Callable[..., Cache[Product]]:
    """A function that returns a cache; seconds of its policy are given by name."""

    def make(name: str = "products", *, on: Redis = redis, clock: Any = time.time, **seconds: float) -> Cache[Product]:
        policy = CachePolicy(**{"ttl": 60.0, **seconds})
        cache = Cache(on, name, Product, policy, revision=lambda product: product.revision, clock=clock)
        opened.push_async_callback(cache.stop)
        return cache

    return make


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


Make = Callable[..., Cache[Product]]


def results(name: str) -> dict[str, float]:
    """Return how often each result has been counted, where it has."""
    found = {
        result: REGISTRY.get_sample_value("cache_requests_total", {"cache": name, "result": result}) or 0.0
        for result in ("hit", "miss", "stale", "error")
    }
    return {result: count for result, count in found.items() if count}


async def test_a_value_is_loaded_once(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    found = [await cache.get("1", source.load) for _ in range(3)]
    assert found == [source.product] * 3
    assert source.calls == 1


async def test_processes_share_values(make_cache: Make, source: Source) -> None:
    await make_cache().get("1", source.load)
    assert await make_cache().get("1", source.load) == source.product
    assert source.calls == 1


async def test_another_shape_begins_with_an_empty_cache(redis: Redis, make_cache: Make, source: Source) -> None:
    await make_cache().get("1", source.load)
    newer = Cache(redis, "products", Product, CachePolicy(ttl=60), schema=2)
    await newer.get("1", source.load)
    assert source.calls == 2


async def test_an_entry_that_cannot_be_read_is_a_miss(redis: Redis, make_cache: Make, source: Source) -> None:
    cache = make_cache()
    for broken in (b"nonsense", b"99999999999999 1 {}", b"soon 1 {}"):
        await redis.client.set("shop:cache:products:v1:1", broken)
        assert await cache.get("1", source.load) == source.product


async def test_those_who_miss_together_load_once(
    make_cache: Make, source: Source, soon: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    cache = make_cache()
    before = results("products").get("miss", 0.0)
    source.open.clear()
    asking = [asyncio.create_task(cache.get("1", source.load)) for _ in range(50)]
    await soon(lambda: results("products").get("miss", 0.0) == before + 50)
    source.open.set()
    assert await asyncio.gather(*asking) == [source.product] * 50
    assert source.calls == 1


async def test_one_who_leaves_takes_no_value_from_the_others(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    source.open.clear()
    first = asyncio.create_task(cache.get("1", source.load))
    await source.asked.wait()
    second = asyncio.create_task(cache.get("1", source.load))
    await asyncio.sleep(0)
    first.cancel()
    source.open.set()
    assert await second == source.product


async def test_an_error_of_the_source_reaches_all_who_asked_and_is_not_kept(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    source.error = ValueError("broken")
    failed = await asyncio.gather(*(cache.get("1", source.load) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, ValueError) for error in failed)
    source.error = None
    assert await cache.get("1", source.load) == source.product


async def test_an_expired_value_is_loaded_anew(make_cache: Make, source: Source, clock: WallClock) -> None:
    cache = make_cache(clock=clock, stale=60)
    await cache.get("1", source.load)
    clock.offset = 61
    source.product = Product("engine", 4, 2)
    assert await cache.get("1", source.load) == source.product


async def test_an_expired_value_is_given_where_the_source_fails(
    make_cache: Make, source: Source, clock: WallClock
) -> None:
    cache = make_cache("failing", clock=clock, stale=60)
    await cache.get("1", source.load)
    clock.offset = 61
    for source.error in (Unavailable("down"), OSError("down")):
        assert await cache.get("1", source.load) == source.product
    assert results("failing")["stale"] >= 2


async def test_what_the_source_says_is_no_failure(make_cache: Make, source: Source, clock: WallClock) -> None:
    cache = make_cache(clock=clock, stale=60)
    await cache.get("1", source.load)
    clock.offset = 61
    source.error = NotFound("gone")
    with pytest.raises(NotFound):
        await cache.get("1", source.load)


async def test_without_time_for_stale_values_there_is_none(redis: Redis, make_cache: Make, source: Source) -> None:
    await make_cache(ttl=10, jitter=0.5).get("1", source.load)
    assert 5_000 <= await redis.client.pttl("shop:cache:products:v1:1") <= 10_000


async def test_lifetimes_differ(redis: Redis, make_cache: Make, source: Source) -> None:
    cache = make_cache(ttl=1000, jitter=0.5)
    for number in range(20):
        await cache.get(str(number), source.load)
    assert len({await redis.client.ttl(f"shop:cache:products:v1:{number}") for number in range(20)}) > 5


async def test_a_value_that_soon_expires_is_renewed_in_the_background(
    make_cache: Make, source: Source, clock: WallClock, soon: Soon
) -> None:
    cache = make_cache(clock=clock, jitter=0, ahead=10)
    await cache.get("1", source.load)
    clock.offset = 55
    old, source.product = source.product, Product("engine", 4, 2)
    source.open.clear()
    assert await cache.get("1", source.load) == old
    source.open.set()
    await soon(lambda: source.calls == 2)
    clock.offset = 61
    while await cache.get("1", source.load) == old:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert source.calls == 2


async def test_a_failed_renewal_in_the_background_is_told_once_and_takes_no_value(
    make_cache: Make, source: Source, clock: WallClock, soon: Soon, logs: Any
) -> None:
    cache = make_cache(clock=clock, jitter=0, ahead=10)
    await cache.get("1", source.load)
    clock.offset = 55
    source.error = OSError("down")
    source.open.clear()
    assert [await cache.get("1", source.load) for _ in range(3)] == [source.product] * 3
    source.open.set()
    await soon(lambda: "cache.not_refreshed" in logs.text)
    assert logs.one("cache.not_refreshed")["reason"] == "OSError"


async def test_that_there_is_no_value_is_remembered_where_that_is_wanted(make_cache: Make, source: Source) -> None:
    source.product = None
    forgetful, remembering = make_cache("forgetful"), make_cache("remembering", negative=10)
    for cache in (forgetful, remembering, forgetful, remembering):
        assert await cache.get("1", source.load) is None
    assert source.calls == 3


async def test_what_is_put_replaces_that_there_was_none(make_cache: Make, source: Source) -> None:
    cache = make_cache(negative=60)
    source.product = None
    await cache.get("1", source.load)
    await cache.put("1", Product("engine", 5))
    assert await cache.get("1", source.load) == Product("engine", 5)


async def test_a_dropped_value_is_loaded_anew(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    await cache.get("1", source.load)
    await cache.drop("1")
    await cache.get("1", source.load)
    assert source.calls == 2


async def test_writing_through_saves_before_it_caches(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    saved = Product("engine", 7, 2)

    async def save() -> Product:
        source.product = saved
        return saved

    assert await cache.through("1", save) == saved
    assert await cache.get("1", source.load) == saved
    assert source.calls == 0


async def test_a_failed_save_leaves_no_value(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    await cache.get("1", source.load)

    async def save() -> Product:
        raise OSError("did it arrive?")

    with pytest.raises(OSError, match="did it arrive"):
        await cache.through("1", save)
    await cache.get("1", source.load)
    assert source.calls == 2


async def test_a_slow_reader_brings_no_old_value_back(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    source.open.clear()
    reading = asyncio.create_task(cache.get("1", source.load))
    await source.asked.wait()
    newer = Product("engine", 8, 2)
    await cache.put("1", newer)
    assert await cache.get("1", source.load) == newer
    source.open.set()
    await reading
    assert await cache.get("1", source.load) == newer


async def test_of_several_processes_one_loads(make_cache: Make, source: Source) -> None:
    caches = [make_cache(claim=10) for _ in range(5)]
    source.open.clear()
    asking = [asyncio.create_task(cache.get("1", source.load)) for cache in caches]
    await source.asked.wait()
    source.open.set()
    assert await asyncio.gather(*asking) == [source.product] * 5
    assert source.calls == 1


async def test_one_that_dies_while_it_loads_stops_the_others_for_a_while_only(
    redis: Redis, make_cache: Make, source: Source
) -> None:
    await redis.client.set("shop:cache:products:v1:1:claim", b"1", px=50)
    assert await make_cache(claim=0.05).get("1", source.load) == source.product


async def test_a_failed_load_lets_the_next_one_try_at_once(redis: Redis, make_cache: Make, source: Source) -> None:
    cache = make_cache(claim=60)
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await cache.get("1", source.load)
    assert not await redis.client.exists("shop:cache:products:v1:1:claim")


@pytest.mark.parametrize("call", ["claim", "release"])
async def test_a_claim_of_unknown_fate_keeps_nobody_waiting(
    make_cache: Make, source: Source, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    cache, other = make_cache(claim=3600), make_cache(claim=3600)
    done = getattr(cache._entries, call)

    async def done_without_answer(*arguments: Any) -> None:
        if call == "claim":
            await done(*arguments)
        raise RedisTimeout("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(cache._entries, call, done_without_answer)
        assert await cache.get("1", source.load) == source.product
    await cache.drop("1")
    async with asyncio.timeout(20):
        assert await cache.get("1", source.load) == source.product
        await other.drop("1")
        assert await other.get("1", source.load) == source.product


async def test_results_are_counted(make_cache: Make, source: Source) -> None:
    cache = make_cache("counted")
    before = results("counted")
    for _ in range(3):
        await cache.get("1", source.load)
    after = results("counted")
    assert {result: after[result] - before.get(result, 0) for result in after} == {"hit": 2, "miss": 1}


async def test_stopping_ends_the_loads_under_way(make_cache: Make, source: Source) -> None:
    cache = make_cache()
    source.open.clear()
    asking = asyncio.create_task(cache.get("1", source.load))
    await source.asked.wait()
    await cache.stop()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_without_redis_values_come_from_the_source_once_for_all(
    opened: AsyncExitStack, make_cache: Make, source: Source, free_port: int
) -> None:
    cache = make_cache("outage", on=connected(opened, f"redis://127.0.0.1:{free_port}"), claim=1)
    found = await asyncio.gather(*(cache.get("1", source.load) for _ in range(20)))
    assert found == [source.product] * 20
    assert source.calls < 20
    assert results("outage")["error"] >= 20


async def test_what_changed_during_an_outage_is_seen_after_it(
    opened: AsyncExitStack, make_cache: Make, source: Source, redis_server: Any, soon: Soon
) -> None:
    redis = connected(opened, redis_server.url, timeout=2.0)
    cache = make_cache(on=redis)
    await cache.get("put", source.load)
    await cache.get("dropped", source.load)
    redis_server.kill()
    source.product = Product("engine", 9, 2)
    await cache.put("put", source.product)
    await cache.drop("dropped")
    redis_server.start()
    await soon(lambda: redis.up)
    assert await cache.get("put", source.load) == source.product
    assert await cache.get("dropped", source.load) == source.product
