"""Caches on Redis: cache-aside with single flight, stale-on-error, refresh-ahead and write-through; write-behind.

A cache is never the reason of an error: while Redis is down every value comes from its source, once for all who want
it at the same time. What could not be written or dropped meanwhile is dropped as soon as Redis is back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Counter, Histogram
from redis.exceptions import RedisError

from marty_lib import log
from marty_lib._cache_entries import Entries, Entry
from marty_lib._flights import Flights
from marty_lib._write_behind import WriteBehind as WriteBehind
from marty_lib.errors import DeadlineExceeded, ServiceError, Unavailable
from marty_lib.metrics import BUCKETS
from marty_lib.redis import Redis

REQUESTS = Counter(
    "cache_requests",
    "Values asked for: hit, miss, stale (expired, but the source failed), error (Redis failed: the source was asked).",
    ["cache", "result"],
)
LOADS = Histogram("cache_load_duration_seconds", "Time of the source, in seconds.", ["cache"], buckets=BUCKETS)
POLL = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long values are good, in seconds.

    Args:
        ttl: until a value is expired.
        jitter: share of `ttl` by which it is shortened at random, so that not all expire together.
        stale: for which an expired value is kept, to be given where the source fails.
        ahead: before a value expires, when whoever asks for it has it loaded anew in the background.
        negative: for which it is remembered that there is no value; 0 does not remember.
        claim: for which the one process that loads keeps the others waiting; 0 lets each process load. Worth its two
            round trips where a load is dear.
    """

    ttl: float
    jitter: float = 0.1
    stale: float = 0.0
    ahead: float = 0.0
    negative: float = 0.0
    claim: float = 0.0


class Cache(Generic[T]):
    """Values of one type, by key; a component, to be added after Redis.

    Args:
        redis: where they are kept.
        name: of the cache, in keys and metrics.
        kind: type of the values, as pydantic knows it.
        policy: how long they are good.
        schema: number of the type's shape; another one begins with an empty cache.
        revision: a value's own number that grows with each change. Where it has none, whoever read before a change and
            writes after it brings the old value back, until it expires.
        clock: seconds since 1970, the same for all processes.
    """

    def __init__(
        self,
        redis: Redis,
        name: str,
        kind: type[T],
        policy: CachePolicy,
        *,
        schema: int = 1,
        revision: Callable[[T], int] = lambda _: 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"cache-{name}"
        prefix = redis.key("cache", name, f"v{schema}", "")
        self._entries = Entries(redis, prefix, kind, revision=revision, clock=clock)
        self._policy = policy
        self._clock = clock
        self._flights: Flights[T | None] = Flights()
        self._count = {result: REQUESTS.labels(name, result) for result in ("hit", "miss", "stale", "error")}
        self._loads = LOADS.labels(name)

    async def start(self) -> None:
        """Do nothing: Redis has been started before."""

    async def stop(self) -> None:
        """Give up the loads under way."""
        await self._flights.close()

    async def get(self, key: str, load: Callable[[], Awaitable[T | None]]) -> T | None:
        """Return the value, from the cache where it is good, else from its source.

        Args:
            key: of the value.
            load: asks the source; None says that there is no such value.

        Raises:
            Exception: what `load` raises, where there is no stale value to give.
        """
        try:
            entry = await self._entries.read(key)
        except RedisError:
            self._count["error"].inc()
            return await self._flights.join(key, lambda: self._load(load))
        if entry is None:
            self._count["miss"].inc()
            return await self._flights.join(key, lambda: self._fill(key, load))
        left = entry.expires - self._clock()
        if left <= 0:
            return await self._renew(key, load, entry)
        self._count["hit"].inc()
        if left < self._policy.ahead and not self._flights.under_way(key):
            self._flights.begin(key, lambda: self._fill(key, load)).add_done_callback(self._refreshed)
        return entry.value

    async def put(self, key: str, value: T) -> None:
        """Remember a value that the source has."""
        self._flights.forget(key)
        try:
            await self._write(key, value)
        except RedisError as error:
            self._entries.doubt(key, error)

    async def drop(self, key: str) -> None:
        """Forget a value."""
        self._flights.forget(key)
        await self._entries.drop(key)

    async def through(self, key: str, save: Callable[[], Awaitable[T]]) -> T:
        """Write through: have the source save, then remember what it has saved, which is returned.

        Where `save` raises, nobody knows what the source has: the value is dropped.
        """
        try:
            value = await save()
        except BaseException:
            await self.drop(key)
            raise
        await self.put(key, value)
        return value

    async def _renew(self, key: str, load: Callable[[], Awaitable[T | None]], entry: Entry[T]) -> T | None:
        try:
            value = await self._flights.join(key, lambda: self._fill(key, load))
        except Exception as error:
            if isinstance(error, ServiceError) and not isinstance(error, Unavailable | DeadlineExceeded):
                raise  # the source has answered
            self._count["stale"].inc()
            log.get().warning("cache.stale", cache=self.name, reason=type(error).__name__)
            return entry.value
        self._count["miss"].inc()
        return value

    async def _fill(self, key: str, load: Callable[[], Awaitable[T | None]]) -> T | None:
        if not self._policy.claim:
            return await self._load_and_write(key, load)
        try:
            claimed = await self._entries.claim(key, self._policy.claim)
            # Who gets the claim looks again: somebody may have written and released it since.
            entry = await self._fresh(key, left=self._policy.ahead) if claimed else await self._await_other(key)
        except RedisError as error:
            # The claim may have arrived all the same: nobody must wait for it.
            self._entries.doubt_claim(key, error)
            return await self._load(load)
        try:
            return await self._load_and_write(key, load) if entry is None else entry.value
        finally:
            if claimed:
                await self._release(key)

    def _refreshed(self, task: asyncio.Task[T | None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.get().warning("cache.not_refreshed", cache=self.name, reason=type(error).__name__)

    async def _load_and_write(self, key: str, load: Callable[[], Awaitable[T | None]]) -> T | None:
        value = await self._load(load)
        try:
            await self._write(key, value)
        except RedisError as error:
            log.get().warning("cache.not_written", cache=self.name, reason=type(error).__name__)
        return value

    async def _load(self, load: Callable[[], Awaitable[T | None]]) -> T | None:
        began = time.perf_counter()
        try:
            return await load()
        finally:
            self._loads.observe(time.perf_counter() - began)

    async def _write(self, key: str, value: T | None) -> None:
        policy = self._policy
        good = policy.negative if value is None else policy.ttl * (1 - policy.jitter * random.random())
        if good:
            await self._entries.write(key, value, good=good, kept=good if value is None else good + policy.stale)

    async def _await_other(self, key: str) -> Entry[T] | None:
        """Return what the process that loads has written, or None where it has not in time."""
        ends = time.monotonic() + self._policy.claim
        while time.monotonic() < ends:
            await asyncio.sleep(POLL * random.uniform(0.5, 1.5))
            entry = await self._fresh(key, left=0)
            if entry is not None:
                return entry
        return None

    async def _fresh(self, key: str, *, left: float) -> Entry[T] | None:
        """Return the entry where it is good for more than `left` seconds."""
        entry = await self._entries.read(key)
        return entry if entry is not None and entry.expires - self._clock() > left else None

    async def _release(self, key: str) -> None:
        try:
            await self._entries.release(key)
        except RedisError as error:
            self._entries.doubt_claim(key, error)
