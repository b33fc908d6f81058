"""Redis Streams: a stream for each partition of a topic, and groups that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from marty_lib._broker import partition_of, partitions_of
from marty_lib._events_wire import Message

if TYPE_CHECKING:
    from marty_lib._redis_source import RedisSource
    from marty_lib.events import EventsSettings

TIMEOUT = 2.0
DATA = b"data"


def create(settings: EventsSettings) -> RedisBroker:
    """Return the broker that the URL names."""
    return RedisBroker(settings)


class RedisBroker:
    """A pool of connections.

    Args:
        settings: URL, and how many partitions topics have.
    """

    def __init__(self, settings: EventsSettings) -> None:
        self._settings = settings
        self.client: Any = Redis.from_url(
            settings.url.get_secret_value(),
            protocol=2,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )

    async def open(self) -> None:
        """Connect."""
        await self.ping()

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()

    async def ping(self) -> None:
        """Ask whether it is there."""
        await self.client.ping()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when all of the messages are in their streams; how durable that is, is Redis's setting."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for message in messages:
                partition = partition_of(message.key, partitions_of(message.topic, self._settings.partitions))
                fields: dict[Any, Any] = dict(message.headers)
                pipeline.xadd(stream(message.topic, partition), fields | {DATA: message.value})
            await pipeline.execute()

    async def declare(self, topics: Sequence[str], group: str) -> None:
        """Have the group read each stream, from its beginning at first."""
        for name, _ in streams(topics, self._settings.partitions):
            try:
                await self.client.xgroup_create(name, group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def source(self, topics: Sequence[str], group: str) -> RedisSource:
        """Return a member of a group."""
        from marty_lib._redis_source import RedisSource

        return RedisSource(self, topics, group, self._settings)


def stream(topic: str, partition: int) -> str:
    """Return the key of a partition's stream."""
    return f"{topic}:{partition}"


def streams(topics: Sequence[str], partitions: int) -> list[tuple[str, str]]:
    """Return the streams of topics, and the topic of each."""
    return [(stream(topic, number), topic) for topic in topics for number in range(partitions_of(topic, partitions))]
