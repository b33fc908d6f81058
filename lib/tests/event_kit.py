"""What the tests of events share: a type of events, settings that wait for nobody, a look at dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from marty_lib._dead_letters import dead_topic, redriver
from marty_lib._events_wire import Message
from marty_lib.events import Consumer, Event, Events, EventsSettings, EventType
from marty_lib.settings import SecretUrl
from pydantic import BaseModel

DEADLINE = 30.0


class Placed(BaseModel):
    """An order was placed."""

    number: int


class Kit:
    """Events on one broker, under names of this test's own."""

    def __init__(self, url: str, prefix: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.group = f"{prefix}group"
        self.placed = EventType("order.placed", Placed, topic=f"{prefix}orders.order.v1", source="orders")
        self._stack = stack
        self._memory: Events | None = None

    async def events(self, **settings: Any) -> Events:
        """Return a started connection; connections in memory share one broker."""
        defaults: dict[str, Any] = {"attempts": 2, "retry_delays": "0.05,0.05", "partitions": 4}
        events = Events(EventsSettings(url=SecretUrl(self.url), **(defaults | settings)), publishes=[self.placed])
        if self.url == "memory://":
            self._memory = self._memory or events
            events.broker = self._memory.broker
        await events.start()
        self._stack.push_async_callback(events.stop)
        return events

    def consumer(self, events: Events, *, group: str = "", **options: Any) -> Consumer:
        """Return a consumer of the test's group, or of another one, to which handlers can be added."""
        return Consumer(events, group=group or self.group, **options)

    async def started(self, consumer: Consumer) -> Consumer:
        """Start a consumer; it is stopped after the test."""
        self._stack.push_async_callback(consumer.stop)
        await consumer.start()
        return consumer

    async def recording(self, events: Events, *, group: str = "") -> tuple[Consumer, list[int]]:
        """Return a started consumer, and the numbers of the events that it has handled."""
        consumer, handled = self.consumer(events, group=group), list[int]()

        @consumer.on(self.placed)
        async def handle(event: Event, order: Placed) -> None:
            handled.append(order.number)

        return await self.started(consumer), handled

    def event(self, number: int, key: str = "ada") -> Event:
        """Return an event that has a number."""
        return self.placed.event(Placed(number=number), key=key)

    async def dead_letters(self, events: Events, count: int) -> list[Message]:
        """Return the group's dead letters, once there are so many."""
        source = events.broker.source([dead_topic(self.placed.topic, self.group)], redriver(self.group))
        await source.open()
        found: list[Message] = []
        try:
            async with asyncio.timeout(DEADLINE):
                while len(found) < count:
                    found += [delivery.message for delivery in await source.fetch(100)]
        finally:
            await source.settle()
            await source.close()
        return found


@asynccontextmanager
async def kit_of(url: str, prefix: str) -> AsyncIterator[Kit]:
    """Yield a kit; all that it has started is stopped afterwards."""
    async with AsyncExitStack() as stack:
        yield Kit(url, prefix, stack)


def notes(message: Message) -> dict[str, str]:
    """Return a message's headers as text."""
    return {name: value.decode() for name, value in message.headers}


def by_key(handled: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the numbers that were handled, for each key."""
    found: dict[str, list[int]] = {}
    for key, number in handled:
        found.setdefault(key, []).append(number)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
