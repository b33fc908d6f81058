"""A member of a Kafka consumer group, which commits what is finished without a gap, partition by partition."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError

from marty_lib._broker import Delivery, Lease, settle
from marty_lib._events_wire import Message

if TYPE_CHECKING:
    from marty_lib._kafka import KafkaBroker

MOMENT_MS = 200
# Heartbeats say that a member lives; how long a message may take is the handler's time-out.
NEVER_MS = 2**31 - 1
# aiokafka asks a node again only when it has answered: what waits for the retry topics holds up the others meanwhile.
LONG_POLL_MS = 25


class _Partition(Lease):
    """A lease that knows which offsets were delivered and not yet committed."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: deque[int] = deque()
        self.done: set[int] = set()
        self.low: int | None = None

    def advance(self) -> bool:
        """Move `low` over what is finished without a gap; return whether it has moved."""
        finished, self.finished = self.finished, []
        self.done.update(finished)
        before = self.low
        while self.delivered and self.delivered[0] in self.done:
            offset = self.delivered.popleft()
            self.done.discard(offset)
            self.low = offset + 1
        return self.low != before


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """A member of a consumer group; a partition is given up only when what is under way there is finished."""

    def __init__(
        self, broker: KafkaBroker, topics: Sequence[str], group: str, connection: dict[str, Any], settle_for: float
    ) -> None:
        self._broker = broker
        self._topics = list(topics)
        self._group = group
        self._connection = connection
        self._settle_for = settle_for
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: dict[TopicPartition, _Partition] = {}

    async def open(self) -> None:
        """Join the group."""
        await self._broker.declare(self._topics, self._group)
        consumer = AIOKafkaConsumer(
            **self._connection,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=NEVER_MS,
            rebalance_timeout_ms=int(self._settle_for * 1000) + 10_000,
            isolation_level="read_committed",
            fetch_max_wait_ms=LONG_POLL_MS,
        )
        try:
            consumer.subscribe(self._topics, listener=self)
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer

    async def close(self) -> None:
        """Leave the group."""
        consumer, self._consumer = self._consumer, None
        for lease in self._partitions.values():
            lease.revoked.set()
        self._partitions.clear()
        if consumer is not None:
            await consumer.stop()

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Finish and commit what is under way, before another member may have the partitions."""
        await self.settle()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Begin with the partitions."""
        self._partitions = {place: _Partition() for place in assigned}

    async def fetch(self, limit: int) -> Sequence[Delivery]:
        """Return what has come, or wait a moment for it."""
        assert self._consumer is not None
        found = await self._consumer.getmany(timeout_ms=MOMENT_MS, max_records=limit)
        deliveries: list[Delivery] = []
        make = tuple.__new__  # the constructors are Python's functions, and this is done for each message
        for place, records in found.items():
            lease = self._partitions.get(place)
            if lease is None:
                continue  # it was revoked meanwhile, and these are delivered to its next owner
            if lease.low is None:
                lease.low = records[0].offset
            lease.delivered.extend([record.offset for record in records])
            topic = place.topic
            for record in records:
                key = record.key.decode("utf-8", "surrogateescape") if record.key else ""
                message = make(Message, (topic, key, record.value or b"", record.headers))
                deliveries.append(make(Delivery, (message, lease, record.offset)))
        return deliveries

    async def commit(self) -> None:
        """Commit, for each partition, up to the first message that is not finished."""
        if self._consumer is None:
            return
        moved = {place: lease.low for place, lease in self._partitions.items() if lease.advance()}
        if moved:
            # Where a rebalance was faster, the messages are delivered again.
            with contextlib.suppress(IllegalStateError):
                await self._consumer.commit(moved)

    async def settle(self) -> None:
        """Give back what is not finished."""
        await settle(list(self._partitions.values()), self._settle_for)
        with contextlib.suppress(KafkaError):
            await self.commit()
        self._partitions.clear()

    async def lag(self) -> Mapping[str, int]:
        """Return the messages after what is finished, in this member's partitions."""
        found = dict.fromkeys(self._topics, 0)
        if self._consumer is None or not self._partitions:
            return found
        partitions = dict(self._partitions)
        for place, end in (await self._consumer.end_offsets(list(partitions))).items():
            low = partitions[place].low
            found[place.topic] += max(0, end - (await self._consumer.position(place) if low is None else low))
        return found
