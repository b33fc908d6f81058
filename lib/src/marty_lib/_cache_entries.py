"""A cache's entries in Redis: how they are written, and how none outlives what it stands for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from marty_lib import log
from marty_lib.redis import Redis

MOST_UNSURE = 10_000

# Entries are `expiry revision json`. An older revision never replaces a newer one: whoever read before a change and
# writes after it would bring back what is no longer true.
_PUT = """
local old = redis.call('GET', KEYS[1])
if old and (tonumber(string.match(old, '^%d+ (%d+) ')) or 0) > tonumber(ARGV[2]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
"""

T = TypeVar("T")


class Entry(NamedTuple, Generic[T]):
    """A value, or None for the knowledge that there is none, good until `expires` (seconds since 1970)."""

    expires: float
    value: T | None


class Entries(Generic[T]):
    """Values of one type under keys that begin with `prefix`.

    Args:
        redis: where they are.
        prefix: of the keys.
        kind: type of the values, as pydantic knows it.
        revision: a value's own number that grows with each change.
        clock: seconds since 1970, the same for all processes.
    """

    def __init__(
        self,
        redis: Redis,
        prefix: str,
        kind: type[T],
        *,
        revision: Callable[[T], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._client = redis.client
        self._prefix = prefix
        self._codec = TypeAdapter[T](kind)
        self._revision = revision
        self._clock = clock
        self._put = redis.client.register_script(_PUT)
        self._unsure: set[str] = set()

    async def read(self, key: str) -> Entry[T] | None:
        """Return the entry, or None where there is none of this shape; redis-py's errors are the caller's."""
        if self._unsure:
            await self._settle()
        raw = await self._redis.get(self._prefix + key)
        if raw is None:
            return None
        try:
            expires, _, text = raw.split(b" ", 2)
            return Entry(int(expires) / 1000, self._codec.validate_json(text) if text else None)
        except (ValueError, ValidationError):
            return None

    async def write(self, key: str, value: T | None, *, good: float, kept: float) -> None:
        """Write an entry unless there is one of a later revision.

        Args:
            key: of the entry.
            value: of the entry.
            good: seconds until it is expired.
            kept: seconds until it is gone.
        """
        text = b"" if value is None else self._codec.dump_json(value)
        revision = 0 if value is None else self._revision(value)
        entry = b"%d %d %b" % (_ms(self._clock() + good), revision, text)
        await self._put(keys=[self._prefix + key], args=[entry, revision, _ms(kept)])

    async def drop(self, key: str) -> None:
        """Remove an entry; where Redis is down, as soon as it is back."""
        try:
            await self._client.delete(self._prefix + key)
        except RedisError as error:
            self.doubt(key, error)

    async def claim(self, key: str, seconds: float) -> bool:
        """Return whether the caller is the one to load the value, among all processes."""
        return bool(await self._client.set(self._prefix + _claim(key), b"1", nx=True, px=_ms(seconds)))

    async def release(self, key: str) -> None:
        """Give up the claim."""
        await self._client.delete(self._prefix + _claim(key))

    def doubt_claim(self, key: str, reason: RedisError) -> None:
        """Note that there may be a claim that nobody will give up."""
        self.doubt(_claim(key), reason)

    def doubt(self, key: str, reason: RedisError) -> None:
        """Note that Redis may hold what is no longer true, so that it is dropped before the next reading."""
        log.get().warning("cache.unsure", key=self._prefix + key, reason=type(reason).__name__)
        if len(self._unsure) < MOST_UNSURE:
            self._unsure.add(key)

    async def _settle(self) -> None:
        keys = list(self._unsure)
        await self._client.delete(*(self._prefix + key for key in keys))
        self._unsure.difference_update(keys)


def _claim(key: str) -> str:
    return f"{key}:claim"


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
