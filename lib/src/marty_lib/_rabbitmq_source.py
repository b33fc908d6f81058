"""A member of a group on RabbitMQ: consumes the group's queues, and acknowledges what is finished."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiormq import Channel, Connection
from aiormq.abc import DeliveredMessage

from marty_lib._broker import Delivery, Lease, settle
from marty_lib._events_wire import CONTENT_TYPE, Message
from marty_lib._rabbitmq import CLOSE_TIMEOUT, queues

if TYPE_CHECKING:
    from marty_lib._rabbitmq import RabbitBroker
    from marty_lib.events import EventsSettings

MOMENT = 0.2


class RabbitSource:
    """A member of a group; it has a connection of its own, so that publishing does not wait behind deliveries."""

    def __init__(self, broker: RabbitBroker, topics: Sequence[str], group: str, settings: EventsSettings) -> None:
        self._broker = broker
        self._topics = list(topics)
        self._group = group
        self._settings = settings
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._lease = Lease()
        self._delivered: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._active: dict[str, str] = {}

    async def open(self) -> None:
        """Consume the group's queues."""
        await self._broker.declare(self._topics, self._group)
        self._lease = Lease()
        self._delivered.clear()
        self._active.clear()
        self._connection = await self._broker.connect()
        self._channel = await self._broker.channel(self._connection, confirms=False)
        # For each queue; together they are a little more than what is taken from here.
        await self._channel.basic_qos(prefetch_count=-(-self._settings.max_in_flight // self._settings.partitions))
        for topic in self._topics:
            for queue, _ in queues(topic, self._group, self._settings.partitions):
                await self._channel.basic_consume(queue, partial(self._arrive, topic, queue, self._lease))

    async def _arrive(self, topic: str, queue: str, lease: Lease, delivered: DeliveredMessage) -> None:
        assert delivered.delivery_tag is not None
        self._active[queue] = topic
        self._delivered.append(Delivery(_inside(topic, delivered), lease, delivered.delivery_tag))
        self._arrived.set()

    async def close(self) -> None:
        """Give back what is not acknowledged."""
        self._lease.revoked.set()
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await connection.close(timeout=CLOSE_TIMEOUT)

    async def fetch(self, limit: int) -> Sequence[Delivery]:
        """Return what has come, or wait a moment for it.

        Raises:
            ConnectionError: where the connection is lost.
        """
        if self._channel is None or self._channel.is_closed:
            raise ConnectionError("the connection to RabbitMQ is lost")
        if not self._delivered:
            self._arrived.clear()
            try:
                async with asyncio.timeout(MOMENT):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        return [self._delivered.popleft() for _ in range(min(limit, len(self._delivered)))]

    async def commit(self) -> None:
        """Acknowledge what is finished."""
        finished, self._lease.finished = self._lease.finished, []
        if self._channel is None or self._channel.is_closed:
            return  # it is delivered again
        for tag in finished:
            await self._channel.basic_ack(tag, wait=False)

    async def settle(self) -> None:
        """Give back what is not finished, when the channel closes."""
        await settle([self._lease], self._settings.handler_timeout)
        await self.commit()

    async def lag(self) -> Mapping[str, int]:
        """Return what waits in the queues that this member is the one to consume; others tell of the others."""
        found = dict.fromkeys(self._topics, 0)
        if self._channel is None:
            return found
        for queue, topic in list(self._active.items()):
            declared = await self._channel.queue_declare(queue, passive=True)
            found[topic] += declared.message_count or 0
        return found


def _inside(topic: str, delivered: DeliveredMessage) -> Message:
    """Return the message, its headers under the names that the library uses."""
    properties = delivered.header.properties
    headers = [(_name(name), _bytes(value)) for name, value in (properties.headers or {}).items()]
    if properties.content_type:
        headers.append((CONTENT_TYPE, properties.content_type.encode()))
    key = next((value for name, value in headers if name == "ce_partitionkey"), b"")
    return Message(topic, key.decode(errors="replace"), delivered.body, headers)


def _name(name: str) -> str:
    for prefix in ("cloudEvents_", "cloudEvents:"):
        if name.startswith(prefix):
            return f"ce_{name[len(prefix) :]}"
    return name


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
