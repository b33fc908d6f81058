"""RabbitMQ: an exchange for each topic, a queue for each group and partition, confirmed publishing.

The publisher says by the routing key in which partition a key is. A group has one queue for each, of which RabbitMQ
lets one member consume at a time: that keeps the order of a key, also when a member dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aiormq import Channel, Connection
from pamqp.commands import Basic
from yarl import URL

from marty_lib._broker import partition_of, partitions_of
from marty_lib._events_wire import CONTENT_TYPE, Message

if TYPE_CHECKING:
    from marty_lib._rabbitmq_source import RabbitSource
    from marty_lib.events import EventsSettings

HEARTBEAT = 10
CONNECT_TIMEOUT = 5.0
CLOSE_TIMEOUT = 2.0
QUEUE: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    # Else RabbitMQ 4 drops what was delivered twenty times; dead letters are the consumer's business.
    "x-delivery-limit": 1_000_000_000,
}

# It tells of each try to connect.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


def create(settings: EventsSettings) -> RabbitBroker:
    """Return the broker that the URL names."""
    return RabbitBroker(settings)


class RabbitBroker:
    """A connection and a channel to publish, made when they are first needed and again when they were lost.

    Args:
        settings: URL, and how many partitions topics have.
    """

    def __init__(self, settings: EventsSettings) -> None:
        self._url = URL(settings.url.get_secret_value()).update_query(heartbeat=HEARTBEAT)
        self._settings = settings
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._known: set[str] = set()
        self._subscriptions: dict[tuple[str, str], None] = {}

    async def connect(self) -> Connection:
        """Return a new connection; a broker that is starting accepts one and says nothing more."""
        connection = Connection(self._url)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await connection.connect()
        return connection

    async def channel(self, connection: Connection, *, confirms: bool) -> Channel:
        """Return a new channel.

        Args:
            connection: that it is of.
            confirms: whether the broker confirms what is published there.
        """
        made = await connection.channel(publisher_confirms=confirms)
        assert isinstance(made, Channel)
        return made

    async def open(self) -> None:
        """Connect where there is no connection."""
        await self._opened()

    async def _opened(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                await self.close()
                self._channel = await self._reopened()
            return self._channel

    async def _reopened(self) -> Channel:
        self._connection = await self.connect()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            channel = await self.channel(self._connection, confirms=True)
            for topic, group in self._subscriptions:
                # Before anything is published: RabbitMQ keeps nothing for queues that do not exist yet.
                await self._subscribe(channel, topic, group)
            return channel

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection, self._channel = self._connection, None, None
        self._known.clear()
        if connection is not None:
            await connection.close(timeout=CLOSE_TIMEOUT)

    async def ping(self) -> None:
        """Ask for an exchange that every broker has."""
        channel = await self._opened()
        await channel.exchange_declare("amq.direct", passive=True)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker has confirmed all of the messages."""
        channel = await self._opened()
        for topic in {message.topic for message in messages} - self._known:
            await self._exchange(channel, topic)
        await asyncio.gather(*(self._send(channel, message) for message in messages))

    async def _send(self, channel: Channel, message: Message) -> None:
        partition = partition_of(message.key, partitions_of(message.topic, self._settings.partitions))
        headers, kind = _outside(message)
        await channel.basic_publish(
            message.value,
            exchange=message.topic,
            routing_key=str(partition),
            properties=Basic.Properties(content_type=kind, delivery_mode=2, headers=headers),
            wait=False,
        )

    async def declare(self, topics: Sequence[str], group: str) -> None:
        """Have an exchange for each topic, and the group's queues bound to it."""
        self._subscriptions.update(dict.fromkeys((topic, group) for topic in topics))
        channel = await self._opened()
        for topic in topics:
            await self._subscribe(channel, topic, group)

    async def _subscribe(self, channel: Channel, topic: str, group: str) -> None:
        await self._exchange(channel, topic)
        for queue, partition in queues(topic, group, self._settings.partitions):
            await channel.queue_declare(queue, durable=True, arguments=QUEUE)
            await channel.queue_bind(queue, topic, routing_key=str(partition))

    async def _exchange(self, channel: Channel, topic: str) -> None:
        await channel.exchange_declare(topic, exchange_type="direct", durable=True)
        self._known.add(topic)

    def source(self, topics: Sequence[str], group: str) -> RabbitSource:
        """Return a member of a group."""
        from marty_lib._rabbitmq_source import RabbitSource

        self._subscriptions.update(dict.fromkeys((topic, group) for topic in topics))
        return RabbitSource(self, topics, group, self._settings)


def queues(topic: str, group: str, partitions: int) -> list[tuple[str, int]]:
    """Return a group's queues for a topic, and the partition of each."""
    return [(f"{topic}.{group}.{number}", number) for number in range(partitions_of(topic, partitions))]


def _outside(message: Message) -> tuple[dict[str, Any], str]:
    """Return the headers as CloudEvents' binding for AMQP names them, and the content type."""
    headers: dict[str, Any] = {}
    kind = ""
    for name, value in message.headers:
        text = value.decode(errors="replace")
        if name == CONTENT_TYPE:
            kind = text
        else:
            headers[f"cloudEvents_{name[3:]}" if name.startswith("ce_") else name] = text
    return headers, kind
