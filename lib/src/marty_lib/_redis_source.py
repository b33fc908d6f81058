"""A member of a group on Redis Streams: owns some of the streams at a time, so that one member alone works on a key.

Redis hands the entries of a stream to whoever asks, which would lose the order. So a member owns a stream, by a key
that expires unless it is renewed; it takes over with XAUTOCLAIM what its owner before has left unfinished.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.exceptions import RedisError

from marty_lib import log
from marty_lib._broker import Delivery, Lease, settle, wanted
from marty_lib._events_wire import Message
from marty_lib._redis_streams import DATA, streams

if TYPE_CHECKING:
    from marty_lib._redis_streams import RedisBroker
    from marty_lib.events import EventsSettings

MOMENT = 0.2
OWNED_FOR = 10.0
BEAT = 2.0
BEATS_A_TRIM = 5

# Take or renew what is free or one's own.
OWN = """
local owner = redis.call('get', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return 1
"""
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class _Stream(Lease):
    """A lease of a stream."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self.topic = topic
        self.cursor = b"0-0"
        self.renewed = time.monotonic()

    @property
    def expired(self) -> bool:
        return time.monotonic() - self.renewed > OWNED_FOR


class RedisSource:
    """A member of a group."""

    def __init__(self, broker: RedisBroker, topics: Sequence[str], group: str, settings: EventsSettings) -> None:
        self._broker = broker
        self._client = broker.client
        self._topics = list(topics)
        self._streams = dict(streams(topics, settings.partitions))
        self._group = group
        self._settle_for = settings.handler_timeout
        self._member = uuid4().hex
        self._owned: dict[str, _Stream] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._failed: Exception | None = None

    async def open(self) -> None:
        """Join the group, and own a fair share of the streams from now on."""
        await self._broker.declare(self._topics, self._group)
        self._failed = None
        await self._balance()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Leave the group; what is owned still is free soon."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        for lease in self._owned.values():
            lease.revoked.set()
        self._owned.clear()

    async def _keep(self) -> None:
        beats = 0
        while wanted():
            await asyncio.sleep(BEAT * random.uniform(0.8, 1))
            beats += 1
            try:
                await self._balance()
                if beats % BEATS_A_TRIM == 0:
                    await self._trim()
            except Exception as error:
                self._failed = error
                self._give_up({name for name, lease in self._owned.items() if lease.expired})

    def _give_up(self, names: set[str]) -> None:
        for name in names:
            self._owned.pop(name).revoked.set()

    async def _balance(self) -> None:
        """Renew what is owned, give away what is more than a fair share, take what is free up to it."""
        share = -(-len(self._streams) // await self._members())
        for name in list(self._owned):
            if not await self._own(name):
                log.get().warning("consumer.lost_stream", stream=name, group=self._group)
                self._give_up({name})
        await self._release(list(self._owned)[share:])
        for name in random.sample(list(self._streams), len(self._streams)):
            if len(self._owned) < share and name not in self._owned and await self._own(name):
                self._owned[name] = _Stream(self._streams[name])

    async def _members(self) -> int:
        """Say that this member lives; return how many do."""
        now = float((await self._client.time())[0])
        key = f"marty:{self._group}:members"
        await self._client.zadd(key, {self._member: now})
        await self._client.zremrangebyscore(key, 0, now - OWNED_FOR)
        return max(1, int(await self._client.zcard(key)))

    async def _own(self, name: str) -> bool:
        began = time.monotonic()
        owns = await self._client.eval(OWN, 1, self._owner(name), self._member, str(int(OWNED_FOR * 1000)))
        if owns and name in self._owned:
            self._owned[name].renewed = began
        return bool(owns)

    def _owner(self, name: str) -> str:
        return f"marty:{self._group}:owner:{name}"

    async def _release(self, names: Sequence[str]) -> None:
        """Finish what is under way in streams, and let others own them."""
        leases = {name: self._owned[name] for name in names}
        await settle(list(leases.values()), self._settle_for)
        await self._commit(leases)
        for name in names:
            del self._owned[name]
            await self._client.eval(RELEASE, 1, self._owner(name), self._member)

    async def fetch(self, limit: int) -> Sequence[Delivery]:
        """Return what owners before have left, then what is new, or wait a moment for it."""
        if self._failed is not None:
            raise self._failed
        for name, lease in list(self._owned.items()):
            if lease.cursor:
                found = await self._take_over(name, lease, limit)
                if found:
                    return found
        names = [name for name, lease in self._owned.items() if not lease.cursor]
        if not names:
            await asyncio.sleep(MOMENT)
            return []
        # The count is for each stream, so that a small one is shared among some of them, in turns.
        names = random.sample(names, min(limit, len(names)))
        return await self._read(names, limit // len(names))

    async def _take_over(self, name: str, lease: _Stream, limit: int) -> list[Delivery]:
        """Claim some of the entries that are pending; an empty cursor says that there are no more."""
        cursor, entries, *_ = await self._client.xautoclaim(
            name, self._group, self._member, min_idle_time=0, start_id=lease.cursor, count=limit
        )
        lease.cursor = b"" if cursor == b"0-0" else cursor
        return _deliveries(lease, entries)

    async def _read(self, names: Sequence[str], count: int) -> list[Delivery]:
        wanted = dict.fromkeys(names, ">")
        found = await self._client.xreadgroup(self._group, self._member, wanted, count=count, block=int(MOMENT * 1000))
        deliveries: list[Delivery] = []
        for name, entries in found or ():
            lease = self._owned.get(name.decode())
            if lease is not None:  # else its next owner takes them over
                deliveries += _deliveries(lease, entries)
        return deliveries

    async def commit(self) -> None:
        """Acknowledge what is finished."""
        await self._commit(self._owned)

    async def _commit(self, leases: Mapping[str, _Stream]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for name, lease in leases.items():
                finished, lease.finished = lease.finished, []
                if finished:
                    pipeline.xack(name, self._group, *finished)
            await pipeline.execute()

    async def settle(self) -> None:
        """Give back what is not finished, and let others own the streams."""
        for lease in self._owned.values():
            lease.revoked.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        with contextlib.suppress(RedisError):
            await self._release(list(self._owned))
            await self._client.zrem(f"marty:{self._group}:members", self._member)

    async def lag(self) -> Mapping[str, int]:
        """Return what is pending or not yet read in the streams that are owned."""
        found = dict.fromkeys(self._topics, 0)
        for name, lease in list(self._owned.items()):
            for group in await self._client.xinfo_groups(name):
                if group["name"] == self._group.encode():
                    found[lease.topic] += (group.get("lag") or 0) + group["pending"]
        return found

    async def _trim(self) -> None:
        """Forget, in what is owned, the entries that every group has finished."""
        for name in list(self._owned):
            oldest = [await self._oldest_wanted(name, group) for group in await self._client.xinfo_groups(name)]
            if oldest:
                await self._client.xtrim(name, minid=min(oldest, key=_order), approximate=True)

    async def _oldest_wanted(self, name: str, group: Mapping[str, Any]) -> bytes:
        pending = await self._client.xpending(name, group["name"])
        wanted: bytes = pending["min"] if pending["pending"] else group["last-delivered-id"]
        return wanted


def _order(entry: bytes) -> tuple[int, int]:
    moment, _, number = entry.partition(b"-")
    return int(moment), int(number)


def _deliveries(lease: _Stream, entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Delivery]:
    return [Delivery(_message(lease.topic, fields or {}), lease, position) for position, fields in entries]


def _message(topic: str, fields: Mapping[bytes, bytes]) -> Message:
    headers = [(name.decode(errors="replace"), value) for name, value in fields.items() if name != DATA]
    key = fields.get(b"ce_partitionkey", b"").decode(errors="replace")
    return Message(topic, key, fields.get(DATA, b""), headers)
