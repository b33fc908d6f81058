"""A broker in this process's memory: logs of messages, groups with positions in them. For development and tests.

It behaves as the others do: keys keep their order, what was not committed is delivered again, one member of a group at
a time works on a partition.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from marty_lib._broker import Delivery, Lease, settle
from marty_lib._events_wire import Message

if TYPE_CHECKING:
    from marty_lib.events import EventsSettings

KEPT = 10_000
MOMENT = 0.2


class _Topic:
    """A log, of which the beginning may be forgotten."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.begin = 0
        self.positions: dict[str, int] = {}

    @property
    def end(self) -> int:
        return self.begin + len(self.messages)

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.forget()

    def forget(self) -> None:
        """Forget what all groups have finished, or what nobody has wanted for long."""
        until = min(self.positions.values()) if self.positions else self.end - KEPT
        while self.begin < until:
            self.messages.popleft()
            self.begin += 1


class MemoryBroker:
    """The broker of one application.

    Args:
        settings: of which it needs the time for what is under way to finish.
    """

    def __init__(self, settings: EventsSettings) -> None:
        self.topics: dict[str, _Topic] = {}
        self.owners: dict[tuple[str, str], object] = {}
        self.changed = asyncio.Condition()
        self._settle_for = settings.handler_timeout

    async def open(self) -> None:
        """Be there, as always."""

    async def close(self) -> None:
        """Be there still."""

    async def ping(self) -> None:
        """Answer."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Append the messages."""
        for message in messages:
            self.topic(message.topic).append(message)
        await self.tell()

    async def tell(self) -> None:
        """Wake who waits for messages, or for another to leave."""
        async with self.changed:
            self.changed.notify_all()

    async def declare(self, topics: Sequence[str], group: str) -> None:
        """Keep the group's position from now on."""
        for name in topics:
            topic = self.topic(name)
            topic.positions.setdefault(group, topic.begin)

    def source(self, topics: Sequence[str], group: str) -> MemorySource:
        """Return a source; the first of a group gets all messages, the next one when it has left."""
        return MemorySource(self, topics, group, self._settle_for)

    def topic(self, name: str) -> _Topic:
        """Return a topic, new where there was none."""
        return self.topics.setdefault(name, _Topic())


class MemorySource:
    """A member of a group."""

    def __init__(self, broker: MemoryBroker, topics: Sequence[str], group: str, settle_for: float) -> None:
        self._broker = broker
        self._topics = list(topics)
        self._group = group
        self._settle_for = settle_for
        self._leases: dict[str, Lease] = {}
        self._next: dict[str, int] = {}

    async def open(self) -> None:
        """Join the group."""
        await self._broker.declare(self._topics, self._group)

    async def close(self) -> None:
        """Leave the group."""
        await self.settle()
        for name in self._topics:
            if self._broker.owners.get((name, self._group)) is self:
                del self._broker.owners[name, self._group]
        await self._broker.tell()

    async def fetch(self, limit: int) -> Sequence[Delivery]:
        """Return what has come, or wait a moment for it."""
        found = self._fetch(limit)
        if not found:
            try:
                async with asyncio.timeout(MOMENT), self._broker.changed:
                    await self._broker.changed.wait()
            except TimeoutError:
                return []
            found = self._fetch(limit)
        return found

    def _fetch(self, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        for name in self._topics:
            if self._broker.owners.setdefault((name, self._group), self) is self:
                found += self._deliver(name, limit - len(found))
        return found

    def _deliver(self, name: str, limit: int) -> list[Delivery]:
        topic = self._broker.topic(name)
        if name not in self._leases:
            self._leases[name] = Lease()
            self._next[name] = max(topic.begin, topic.positions[self._group])
        lease, position = self._leases[name], self._next[name]
        messages = list(islice(topic.messages, position - topic.begin, position - topic.begin + limit))
        self._next[name] += len(messages)
        return [Delivery(message, lease, position + number) for number, message in enumerate(messages)]

    async def commit(self) -> None:
        """Move the group's positions over what is finished without a gap."""
        for name, lease in self._leases.items():
            topic = self._broker.topic(name)
            finished = set(lease.finished)
            while topic.positions[self._group] in finished:
                finished.discard(topic.positions[self._group])
                topic.positions[self._group] += 1
            lease.finished = list(finished)
            topic.forget()

    async def settle(self) -> None:
        """Give back what is not finished."""
        await settle(list(self._leases.values()), self._settle_for)
        await self.commit()
        self._leases.clear()

    async def lag(self) -> Mapping[str, int]:
        """Return the messages after the group's positions."""
        found = {name: self._broker.topic(name) for name in self._topics}
        return {name: topic.end - topic.positions.get(self._group, topic.begin) for name, topic in found.items()}


def create(settings: EventsSettings) -> MemoryBroker:
    """Return a new broker, with no messages."""
    return MemoryBroker(settings)
