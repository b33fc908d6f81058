"""What the library asks of a broker; each of Kafka, RabbitMQ, Redis and the one in this process answers it in a file.

A broker carries messages from topics to groups: every group gets each message, at least once. What is consumed comes
under a lease, the right to work on one partition alone: a message is under way, finished, or given back.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from marty_lib._events_wire import Message


class Lease:
    """The right to work on the messages of one partition; `with lease:` says that one is being worked on.

    Messages that are finished are gathered here until their source commits them. Once it is revoked, nothing more is
    begun under it; what is under way may finish.
    """

    def __init__(self) -> None:
        self.revoked = asyncio.Event()
        self.finished: list[Any] = []
        self._under_way = 0
        self._idle: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if self._idle is not None and not self._under_way:
            self._idle.set()

    async def idle(self) -> None:
        """Return when nothing is under way."""
        if self._under_way:
            self._idle = asyncio.Event()
            await self._idle.wait()


class Delivery(NamedTuple):
    """A message, and what its source knows it by.

    Args:
        message: what was delivered.
        lease: under which it may be worked on.
        position: of the source's own making.
    """

    message: Message
    lease: Lease
    position: Any


class Source(Protocol):
    """Where one member of a group gets its messages from. It may be closed and opened again."""

    async def open(self) -> None:
        """Connect and join the group; raise where the broker is away."""

    async def close(self) -> None:
        """Give back what is not committed, and leave the group."""

    async def fetch(self, limit: int) -> Sequence[Delivery]:
        """Return up to `limit` messages in order, or none after a moment; raise where the connection is lost."""

    async def commit(self) -> None:
        """Have the broker know what is finished, and nothing else."""

    async def settle(self) -> None:
        """Revoke every lease, wait for what is under way, and commit it."""

    async def lag(self) -> Mapping[str, int]:
        """Return by topic how many messages the group has yet to finish."""


class Broker(Protocol):
    """A connection to a broker."""

    async def open(self) -> None:
        """Connect; raise where the broker is away."""

    async def close(self) -> None:
        """Disconnect."""

    async def ping(self) -> None:
        """Raise where the broker does not answer."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker keeps all of the messages, of one key in their order."""

    async def declare(self, topics: Sequence[str], group: str) -> None:
        """Have the topics exist, and keep from now on what is published there for the group."""

    def source(self, topics: Sequence[str], group: str) -> Source:
        """Return a source of the topics' messages for a member of the group."""


def wanted() -> bool:
    """Return whether the task under way is to go on: a client or a handler may have swallowed its cancellation."""
    task = asyncio.current_task()
    return task is None or not task.cancelling()


async def settle(leases: Sequence[Lease], seconds: float) -> None:
    """Revoke leases and wait until nothing is under way, for so many seconds at most."""
    for lease in leases:
        lease.revoked.set()
    try:
        async with asyncio.timeout(seconds):
            for lease in leases:
                await lease.idle()
    except TimeoutError:
        return  # what goes on is not committed, so another member gets it too


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key: the same in every process and version of the library."""
    return zlib.crc32(key.encode()) % partitions


def partitions_of(topic: str, partitions: int) -> int:
    """Return how many partitions a topic has: dead letters have one, for their order means nothing."""
    return 1 if topic.endswith(".dead") else partitions
