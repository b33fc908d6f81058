"""Locks on Redis for work that only one process may do at a time: renewed, lost loudly, fenced.

A lock whose holder stalls (a long pause of the machine, of the network) expires while the holder still believes in it:
no lock can prevent that. So whoever holds one has a fencing token, which grows with each holder; what is protected must
refuse a token that is lower than one it has seen. Redis being down means that nobody gets a lock.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from types import TracebackType

from prometheus_client import Counter
from redis.exceptions import RedisError

from marty_lib import log
from marty_lib.errors import Conflict, Unavailable
from marty_lib.redis import Redis, needed

TAKEN = Counter("locks", "Locks asked for: held, busy (not in time), lost (while held).", ["lock", "result"])
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.2

# The token grows even where Redis has lost its data, as long as its clock is not set back: it is never lower than the
# time in microseconds.
_ACQUIRE = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return 0
end
local now = redis.call('TIME')
local token = math.max((tonumber(redis.call('GET', KEYS[2])) or 0) + 1, now[1] * 1000000 + now[2])
redis.call('SET', KEYS[2], string.format('%.0f', token))
return token
"""
_RENEW = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
_RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class LockBusy(Conflict):
    """Somebody else holds the lock."""

    code = "locked"


class LockLost(Unavailable):
    """The lock was lost while the work was under way; the work has been cancelled."""

    code = "lock-lost"


class Lock:
    """Locks of one sort, one for each key.

        async with stock_lock.hold("42") as lease:
            await store.reserve("42", 3, token=lease.token)

    Args:
        redis: where they are.
        name: of the sort, in keys and metrics.
        ttl: seconds after which a lock is lost that nobody renews; it is renewed three times in that time.
        wait: seconds to wait for a lock that somebody else holds.
    """

    def __init__(self, redis: Redis, name: str, *, ttl: float = 10.0, wait: float = 0.0) -> None:
        self.name = name
        self.ttl = ttl
        self.wait = wait
        self._redis = redis
        self._acquire = redis.client.register_script(_ACQUIRE)
        self._renew = redis.client.register_script(_RENEW)
        self._release = redis.client.register_script(_RELEASE)

    def hold(self, key: str) -> Lease:
        """Return the lock of `key`, to be used with `async with`."""
        return Lease(self, key)

    def _key(self, key: str) -> str:
        return self._redis.key("lock", self.name, key)

    async def _try(self, key: str, owner: str) -> int:
        """Return the token, or 0 where somebody else holds the lock."""
        keys = [self._key(key), self._redis.key("lock-token")]
        return int(await self._acquire(keys=keys, args=[owner, int(self.ttl * 1000)]))

    async def _prolong(self, key: str, owner: str) -> bool:
        return bool(await self._renew(keys=[self._key(key)], args=[owner, int(self.ttl * 1000)]))

    async def _give_back(self, key: str, owner: str) -> bool:
        return bool(await self._release(keys=[self._key(key)], args=[owner]))


class Lease:
    """A lock while it is held.

    The task that holds it is cancelled where it is lost, and `async with` then raises LockLost.
    """

    def __init__(self, lock: Lock, key: str) -> None:
        self.token = 0
        self._lock = lock
        self._key = key
        self._owner = secrets.token_hex(16)
        self._until = 0.0
        self._lost = False
        self._cancelled = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def remaining(self) -> float:
        """Seconds for which the lock is held for sure, if it is not renewed."""
        return 0.0 if self._lost else max(0.0, self._until - time.monotonic())

    async def __aenter__(self) -> Lease:
        """Take the lock.

        Raises:
            LockBusy: where somebody else holds it all the time.
            Unavailable: where Redis is down.
        """
        holder = asyncio.current_task()
        assert holder is not None, "locks are held by tasks"
        self._holder = holder
        self._cancelling = holder.cancelling()
        ends = time.monotonic() + self._lock.wait
        pause = FIRST_PAUSE
        while not await self._taken():
            if time.monotonic() + pause > ends:
                self._count("busy")
                raise LockBusy("Somebody else is at it: ask again.", headers={"Retry-After": "1"})
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 2)
        self._count("held")
        self._keeper = asyncio.create_task(self._keep(), name=f"lock-{self._lock.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the lock back.

        Raises:
            LockLost: where it was lost, unless the work has failed by itself.
        """
        assert self._keeper is not None
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
        if not self._lost:
            await self._give_back()
        # As asyncio.timeout does: a cancellation is ours where nobody else has asked for one.
        ours = self._cancelled and self._holder.uncancel() <= self._cancelling
        if self._lost and (kind is None or (ours and kind is asyncio.CancelledError)):
            raise LockLost("The lock was lost while the work was under way: ask again.") from error

    async def _taken(self) -> bool:
        asked = time.monotonic()
        try:
            with needed():
                self.token = await self._lock._try(self._key, self._owner)
        except BaseException:
            # It may have arrived; nobody would give it back before it expires.
            await self._give_back()
            raise
        self._until = asked + self._lock.ttl
        return self.token > 0

    async def _keep(self) -> None:
        """Renew the lock; cancel its holder where it is lost, or may be."""
        pause = self._lock.ttl / 3
        while not self._lost:
            await asyncio.sleep(min(pause, self.remaining))
            asked = time.monotonic()
            if not self.remaining:
                self._cancel_holder("expired")
                break
            try:
                kept = await self._lock._prolong(self._key, self._owner)
            except RedisError:
                pause = self._lock.ttl / 20
                continue
            pause = self._lock.ttl / 3
            self._until = asked + self._lock.ttl
            if not kept:
                self._cancel_holder("taken")

    def _cancel_holder(self, reason: str) -> None:
        self._lose(reason)
        self._cancelled = True
        self._holder.cancel()

    def _lose(self, reason: str) -> None:
        self._lost = True
        self._count("lost")
        log.get().warning("lock.lost", lock=self._lock.name, key=self._key, token=self.token, reason=reason)

    async def _give_back(self) -> None:
        try:
            if not await self._lock._give_back(self._key, self._owner) and self.token:
                self._lose("taken")
        except RedisError as error:
            # It expires by itself; and it was held until now, unless its time is over.
            log.get().warning("lock.not_given_back", lock=self._lock.name, reason=type(error).__name__)
            if self.token and not self.remaining:
                self._lose("expired")

    def _count(self, result: str) -> None:
        TAKEN.labels(self._lock.name, result).inc()
