"""Publishes or consumes on Kafka, `bare` by aiokafka alone or `service` by marty_lib.events.

    python -m tests.bench.apps.messages bare|service publish|relay|consume

It prints one JSON object for each number that it reads. `publish` has so many events kept by the broker, one of each
key at a time; `relay` a hundred together, as an outbox is emptied; `consume` publishes unmeasured, in
hundreds, and then takes them, parses them and commits what has been handled: on both sides the same data under the same
headers. Each event that is taken is checked: a number that is missing, doubled or out of order for its key ends it with
an error.
"""

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from statistics import quantiles
from typing import TYPE_CHECKING
from uuid import uuid4

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel, TypeAdapter

if TYPE_CHECKING:
    from marty_lib.events import Event

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP"]
TOPIC = os.environ["TOPIC"]
KEYS = 64
TOGETHER = 100
COMMIT_EVERY = 0.05  # seconds, as the library does


class OrderPlaced(BaseModel):
    """What has happened."""

    number: int
    customer: str = "ada"
    item: str = "analytical engine"
    quantity: int = 1


ADAPTER = TypeAdapter(OrderPlaced)


def key(number: int) -> str:
    """Return the key of an event: all of one key keep their order."""
    return f"order-{number % KEYS}"


def envelope(key: str) -> list[tuple[str, bytes]]:
    """Return the headers of an event as the library writes them."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_source", b"bench"),
        ("ce_type", b"order.placed"),
        ("content-type", b"application/json"),
        ("ce_id", uuid4().hex.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("ce_subject", key.encode()),
        ("ce_partitionkey", key.encode()),
    ]


class Checked:
    """Takes what is consumed and says when all of it is there."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._missing = 0
        self._done = asyncio.Event()

    def expect(self, count: int) -> None:
        """Begin to count."""
        self._missing = count
        self._done.clear()

    async def take(self, order: OrderPlaced) -> None:
        """Count one; it is what handles an event."""
        last = self._last.get(key(order.number), order.number % KEYS - KEYS)
        if order.number != last + KEYS:
            print(f"{key(order.number)}: {order.number} comes after {last}", file=sys.stderr, flush=True)
            os._exit(1)
        self._last[key(order.number)] = order.number
        self._missing -= 1
        if not self._missing:
            self._done.set()

    @property
    def complete(self) -> bool:
        """Whether the expected ones have been taken."""
        return self._done.is_set()

    async def all(self) -> None:
        """Return when they have."""
        await self._done.wait()


class Bare:
    """What aiokafka's documentation shows.

    Its consumer is a careful one: it looks at an event's type before it parses the data, and commits only what has been
    handled. It has no time-out, retry, dead letter, metric or context, and does one event at a time.
    """

    def __init__(self) -> None:
        # Idempotence, acknowledgements and batches as the library sets them.
        self.producer = AIOKafkaProducer(
            bootstrap_servers=BOOTSTRAP, enable_idempotence=True, acks="all", max_batch_size=262_144
        )
        self.consumer = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=BOOTSTRAP,
            group_id=f"{TOPIC}.bare",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        self.models = {b"order.placed": ADAPTER}
        self.consumes = False
        self.checked = Checked()

    async def start(self, *, consume: bool) -> None:
        """Connect."""
        await self.producer.start()
        self.consumes = consume
        if consume:
            await self.consumer.start()

    async def publish(self, number: int) -> None:
        """Return when the broker has it."""
        await self.producer.send_and_wait(TOPIC, self._data(number), key(number).encode())

    async def relay(self, numbers: range) -> None:
        """Return when the broker has all of them."""
        sent = []
        for number in numbers:
            headers = envelope(key(number)) if self.consumes else None
            sent.append(await self.producer.send(TOPIC, self._data(number), key(number).encode(), headers=headers))
        await asyncio.gather(*sent)

    def _data(self, number: int) -> bytes:
        return ADAPTER.dump_json(OrderPlaced(number=number))

    async def consume(self) -> None:
        """Take all that is expected, as the documentation does: one by one."""
        committed = time.perf_counter()
        async for message in self.consumer:
            model = self.models.get(dict(message.headers).get("ce_type", b""))
            if model is not None:
                await self.checked.take(model.validate_json(message.value or b""))
            if self.checked.complete or time.perf_counter() - committed > COMMIT_EVERY:
                await self.consumer.commit()
                committed = time.perf_counter()
            if self.checked.complete:
                return


class Service:
    """What a service does."""

    def __init__(self) -> None:
        from marty_lib.events import Consumer, Event, Events, EventsSettings, EventType
        from marty_lib.settings import SecretUrl

        self.events = Events(EventsSettings(url=SecretUrl(f"kafka://{BOOTSTRAP}"), publish_timeout=60))
        self.placed = EventType("order.placed", OrderPlaced, topic=TOPIC, source="bench")
        self.consumer = Consumer(self.events, group=f"{TOPIC}.service")
        self.checked = Checked()

        @self.consumer.on(self.placed)
        async def take(_: Event, order: OrderPlaced) -> None:
            await self.checked.take(order)

    async def start(self, *, consume: bool) -> None:
        """Connect."""
        self.consumer.pause()
        await self.events.start()
        if consume:
            await self.consumer.start()

    async def publish(self, number: int) -> None:
        """Return when the broker has it."""
        await self.events.publish(self._event(number))

    async def relay(self, numbers: range) -> None:
        """Return when the broker has all of them."""
        await self.events.publish(*map(self._event, numbers))

    def _event(self, number: int) -> "Event":
        return self.placed.event(OrderPlaced(number=number), key=key(number))

    async def consume(self) -> None:
        """Take all that is expected."""
        self.consumer.resume()
        await self.checked.all()
        self.consumer.pause()


class Bench:
    """Does what is measured."""

    def __init__(self, side: Bare | Service) -> None:
        self.side = side
        self.next = 0

    async def publish(self, count: int) -> list[float]:
        """Publish `count` events; return the seconds that each took. Those of one key wait for each other."""
        first, self.next = self.next, self.next + count
        seconds: list[float] = []

        async def lane(offset: int) -> None:
            for number in range(first, first + count):
                if number % KEYS == offset:
                    began = time.perf_counter()
                    await self.side.publish(number)
                    seconds.append(time.perf_counter() - began)

        await asyncio.gather(*map(lane, range(KEYS)))
        return seconds

    async def relay(self, count: int) -> list[float]:
        """Publish `count` events, a hundred together; return the seconds that each took."""
        seconds: list[float] = []
        for first in range(self.next, self.next + count, TOGETHER):
            began = time.perf_counter()
            numbers = range(first, min(first + TOGETHER, self.next + count))
            await self.side.relay(numbers)
            seconds += [time.perf_counter() - began] * len(numbers)
        self.next += count
        return seconds

    async def consume(self, count: int) -> list[float]:
        """Take `count` events; return the seconds that each took, all the same."""
        began = time.perf_counter()
        await self.side.consume()
        return [(time.perf_counter() - began) / count] * count

    async def measure(self, what: str, count: int) -> dict[str, float]:
        """Return what `count` events took; milliseconds for latencies, microseconds for CPU time."""
        work = self.relay if what == "relay" else self.publish
        if what == "consume":
            self.side.checked.expect(count)
            await self.relay(count)
            work = self.consume
        began, cpu = time.perf_counter(), time.process_time()
        seconds = await work(count)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        steps = quantiles(seconds, n=100)
        return {
            "requests": count,
            "per_second": count / took,
            "p50": steps[49] * 1000,
            "p99": steps[98] * 1000,
            "cpu": cpu / count * 1e6,
        }


async def main(side: str, what: str) -> None:
    """Obey until there is nothing to read."""
    # Logs go the other way.
    figures = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    bench = Bench(Bare() if side == "bare" else Service())
    await bench.side.start(consume=what == "consume")
    print("ready", file=figures, flush=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await bench.measure(what, int(line))), file=figures, flush=True)
    os._exit(0)  # the figures are out: nothing has to be closed


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:3]))
