"""Kafka: an idempotent producer, topics made where they are missing."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code
from aiokafka.partitioner import murmur2

from marty_lib._broker import partitions_of
from marty_lib._events_wire import Message

if TYPE_CHECKING:
    from marty_lib._kafka_source import KafkaSource
    from marty_lib.events import EventsSettings

SMALL = 4
CLOSE_TIMEOUT = 2.0

# Its clients tell of each try to connect.
logging.getLogger("aiokafka").setLevel(logging.ERROR)


def create(settings: EventsSettings) -> KafkaBroker:
    """Return the broker that the URL names."""
    return KafkaBroker(settings)


def connection(url: str) -> dict[str, Any]:
    """Return what aiokafka's clients take, from `kafka[s]://[user:password@]host:port,...[?sasl_mechanism=...]`."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    tls = parts.scheme == "kafkas"
    found: dict[str, Any] = {
        "bootstrap_servers": hosts.split(","),
        "security_protocol": ("SASL_" if credentials else "") + ("SSL" if tls else "PLAINTEXT"),
        "retry_backoff_ms": 250,
    }
    if tls:
        found["ssl_context"] = ssl.create_default_context()
    if credentials:
        user, _, password = credentials.partition(":")
        found["sasl_mechanism"] = parse_qs(parts.query).get("sasl_mechanism", ["PLAIN"])[0]
        found["sasl_plain_username"], found["sasl_plain_password"] = unquote(user), unquote(password)
    return found


@lru_cache(65_536)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


class KafkaBroker:
    """A producer, connected when it is first needed.

    Args:
        settings: URL, and how many partitions a new topic gets.
    """

    def __init__(self, settings: EventsSettings) -> None:
        self._connection = connection(settings.url.get_secret_value())
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()
        self._known: dict[str, list[int]] = {}

    async def open(self) -> None:
        """Start the producer where there is none."""
        await self._connected()

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._connection,
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=262_144,
                    request_timeout_ms=10_000,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def close(self) -> None:
        """Send what waits, unless the broker is away, and stop the producer."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await producer.stop()
        except TimeoutError:
            await producer._sender.close()
            await producer.client.close()

    async def ping(self) -> None:
        """Ask for the cluster's metadata."""
        producer = await self._connected()
        await producer.client.fetch_all_metadata()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when all in-sync replicas have the messages."""
        producer = await self._connected()
        for message in messages:
            if message.topic not in self._known:
                await self._ensure({message.topic for message in messages} - self._known.keys())
        if len(messages) == 1:
            await (await self._send(producer, messages[0]))
        elif len(messages) <= SMALL:
            await asyncio.gather(*[await self._send(producer, message) for message in messages])
        else:
            await asyncio.gather(*await self._send_batches(producer, messages))

    async def _send(self, producer: AIOKafkaProducer, message: Message) -> asyncio.Future[Any]:
        topic, text, value, headers = message
        key = _bytes(text)
        partitions = self._known[topic]
        # The clients' own way from key to partition is slow, and its result always the same.
        partition = None if key is None else partitions[_hash(key) % len(partitions)]
        found: asyncio.Future[Any] = await producer.send(topic, value, key, partition, headers=headers)
        return found

    async def _send_batches(self, producer: AIOKafkaProducer, messages: Sequence[Message]) -> list[asyncio.Future[Any]]:
        """Send a batch for each partition, or several where one is full."""
        waits: list[asyncio.Future[Any]] = []
        batches: dict[tuple[str, int], Any] = {}
        for number, message in enumerate(messages):
            key = _bytes(message.key)
            partitions = self._known[message.topic]
            place = message.topic, partitions[(number if key is None else _hash(key)) % len(partitions)]
            batch = batches.get(place)
            if batch is None:
                batch = batches[place] = producer.create_batch()
            record = {"timestamp": None, "key": key, "value": message.value, "headers": message.headers}
            if batch.append(**record) is None:
                waits.append(await producer.send_batch(batch, place[0], partition=place[1]))
                batch = batches[place] = producer.create_batch()
                batch.append(**record)  # the first one always fits
        for (topic, partition), batch in batches.items():
            waits.append(await producer.send_batch(batch, topic, partition=partition))
        return waits

    async def declare(self, topics: Sequence[str], group: str) -> None:
        """Make the topics where they are missing; Kafka keeps their messages for every group."""
        await self._connected()
        await self._ensure(set(topics) - self._known.keys())

    async def _ensure(self, topics: set[str]) -> None:
        if not topics:
            return
        producer = await self._connected()
        cluster = await producer.client.fetch_all_metadata()
        missing = topics - cluster.topics()
        if missing:
            await self._create(missing)
        for topic in topics:
            self._known[topic] = sorted(await producer.partitions_for(topic))

    async def _create(self, topics: set[str]) -> None:
        admin = AIOKafkaAdminClient(**self._connection)
        try:
            await admin.start()
            made = await admin.create_topics([self._new(topic) for topic in topics])
        finally:
            await admin.close()
        for topic, code, *_ in made.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise error(f"the topic {topic} could not be made")

    def _new(self, topic: str) -> NewTopic:
        made = NewTopic(topic, partitions_of(topic, self._settings.partitions), 1)
        made.replication_factor = -1  # the broker's default, which the constructor does not take
        return made

    def source(self, topics: Sequence[str], group: str) -> KafkaSource:
        """Return a member of a consumer group."""
        from marty_lib._kafka_source import KafkaSource

        return KafkaSource(self, topics, group, self._connection, self._settings.handler_timeout)


def _bytes(key: str) -> bytes | None:
    return key.encode("utf-8", "surrogateescape") if key else None
