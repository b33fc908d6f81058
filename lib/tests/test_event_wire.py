"""The parts of events that need no broker: names, envelope, settings, dead letters, AsyncAPI, commands."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marty_lib import PayloadTooLarge, StartError, Unavailable, context
from marty_lib._broker import Delivery, Lease, partition_of, partitions_of, settle
from marty_lib._dead_letters import Failure, dead, later, not_before, origin, revived, rows
from marty_lib._event_commands import describe
from marty_lib._events_wire import Event, InvalidEvent, Message, context_of, decode, encode
from marty_lib._lanes import Lanes
from marty_lib.events import Consumer, Events, EventsSettings, EventType, topic_name
from marty_lib.settings import SecretUrl, ServiceSettings, SettingsError, load
from pydantic import BaseModel

from .event_kit import Placed, until

PLACED = EventType("order.placed", Placed, topic="orders.order.v1", source="orders")
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SOME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def test_a_topic_is_named_after_service_entity_and_version() -> None:
    assert topic_name("order-service", "order") == "order-service.order.v1"
    assert topic_name("order-service", "order", version=2) == "order-service.order.v2"


@pytest.mark.parametrize("name", ["", "Order", "order service", "order.placed", "1st", "orders/eu"])
def test_a_name_that_a_broker_might_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        topic_name("orders", name)


def test_an_event_is_told_as_cloudevents_in_binary_mode(request_context: context.RequestContext) -> None:
    event = PLACED.event(Placed(number=7), key="ada")
    message = encode(event)

    assert (message.topic, message.key, message.value) == ("orders.order.v1", "ada", b'{"number":7}')
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": event.id.encode(),
        "ce_source": b"orders",
        "ce_type": b"order.placed",
        "ce_time": event.time.encode(),
        "content-type": b"application/json",
        "ce_subject": b"ada",
        "ce_partitionkey": b"ada",
        "ce_correlationid": request_context.request_id.encode(),
        "ce_traceparent": f"00-{request_context.trace_id}-{request_context.span_id}-00".encode(),
    }


def test_two_events_have_different_ids() -> None:
    assert PLACED.event(Placed(number=1), key="a").id != PLACED.event(Placed(number=1), key="a").id


@given(st.builds(Event, SOME, SOME, SOME, TEXT, SOME, st.binary(), TEXT, TEXT, TEXT, TEXT, TEXT, TEXT))
def test_what_is_encoded_can_be_decoded(event: Event) -> None:
    assert decode(encode(event)) == event


@given(st.lists(st.tuples(st.sampled_from(["ce_specversion", "ce_id", "ce_type", "x"]), st.binary(max_size=4))))
def test_any_message_is_an_event_or_says_why_it_is_none(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(InvalidEvent):
        decode(Message("topic", "key", b"", headers))


def test_a_header_without_a_value_makes_no_event() -> None:
    message = encode(PLACED.event(Placed(number=1), key="a"))
    headers: Any = [(name, None if name == "ce_id" else value) for name, value in message.headers]

    with pytest.raises(InvalidEvent):
        decode(message._replace(headers=headers))


def test_a_handlers_context_has_the_request_the_trace_and_a_deadline(request_context: context.RequestContext) -> None:
    event = PLACED.event(Placed(number=1), key="a")._replace(tracestate="vendor=1")
    found = context_of(event, deadline=7.0)

    assert (found.request_id, found.trace_id) == (request_context.request_id, request_context.trace_id)
    assert found.span_id != request_context.span_id
    assert found.tracestate == "vendor=1"
    assert found.deadline == 7.0


def test_an_event_of_nobodys_has_a_trace_of_its_own() -> None:
    event = PLACED.event(Placed(number=1), key="a")

    assert context_of(event, 1).trace_id != context_of(event, 1).trace_id


@given(st.text(max_size=50), st.integers(1, 100))
def test_a_key_has_one_partition(key: str, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) == partition_of(key, partitions) < partitions


def test_the_partition_of_a_key_never_changes() -> None:
    assert [partition_of(key, 8) for key in ("", "a", "b", "c", "ada", "0b5c2d0e-7f3a")] == [0, 3, 1, 7, 0, 0]


def test_dead_letters_have_one_partition() -> None:
    assert (partitions_of("orders.order.v1", 8), partitions_of("orders.order.v1.orders.dead", 8)) == (8, 1)


def test_a_message_keeps_its_origin_by_way_of_retries_and_death() -> None:
    message = encode(PLACED.event(Placed(number=1), key="a"))
    again = later(message, "orders", 2, 10)
    letter = dead(again, "orders", Failure("internal", "KeyError"), 2)
    back = revived(letter, "orders")

    assert again.topic == "orders.order.v1.orders.retry"
    assert letter.topic == "orders.order.v1.orders.dead"
    assert origin(letter.topic, "orders") == dict(letter.headers)["marty_topic"].decode() == message.topic
    assert (rows(again), rows(back), not_before(back)) == (2, 0, 0)
    assert back == message._replace(topic=again.topic)


@pytest.mark.parametrize("value", [b"", b"soon", b"nan", b"-5", b"\xff", b"1e400"])
def test_a_retry_header_that_cannot_be_read_stops_nobody(value: bytes) -> None:
    message = Message("t", "k", b"", [("marty_attempts", value), ("marty_not_before", value)])

    assert rows(message) >= 0
    assert not_before(message) >= 0


async def test_settling_revokes_at_once_and_waits_for_what_is_under_way() -> None:
    lease, go_on = Lease(), asyncio.Event()

    async def work() -> None:
        with lease:
            await go_on.wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    settling = asyncio.create_task(settle([lease], 20))
    await asyncio.wait_for(lease.revoked.wait(), 20)
    assert not settling.done()

    go_on.set()
    await settling
    await working


async def test_settling_waits_no_longer_than_it_may() -> None:
    lease = Lease()
    with lease:
        await settle([lease], 0.01)

    assert lease.revoked.is_set()


async def test_what_was_queued_under_a_revoked_lease_is_given_back_unseen() -> None:
    seen: list[Any] = []
    dropped: list[Delivery] = []

    async def attempt(delivery: Delivery) -> None:
        seen.append(delivery)

    async def insist(delivery: Delivery, later: None) -> None: ...

    lanes: Lanes[None] = Lanes(2, attempt, insist, dropped.append)
    lease = Lease()
    lease.revoked.set()
    lanes.put(Delivery(Message("t", "k", b"", []), lease, 1))
    async with asyncio.TaskGroup() as group:
        lanes.start(group)
        await until(lambda: dropped)
        assert group._tasks
        for task in group._tasks:
            task.cancel()

    assert seen == []


class Work:
    """Lanes whose messages are done when they may; those whose value is `later` must wait for `insist`."""

    def __init__(self, workers: int) -> None:
        self.lanes: Lanes[str] = Lanes(workers, self._attempt, self._insist, lambda _: None)
        self.begun: list[str] = []
        self.tasks: set[Any] = set()
        self.go_on = asyncio.Event()
        self.insisted = asyncio.Event()

    async def _attempt(self, delivery: Delivery) -> str | None:
        self.begun.append(f"{delivery.message.key}{delivery.position}")
        self.tasks.add(asyncio.current_task())
        if delivery.message.value == b"wait":
            await self.go_on.wait()
        return "later" if delivery.message.value == b"later" else None

    async def _insist(self, delivery: Delivery, later: str) -> None:
        await self.insisted.wait()

    def put(self, *messages: tuple[str, bytes]) -> None:
        """Queue messages up, by key and value."""
        for position, (key, value) in enumerate(messages):
            self.lanes.put(Delivery(Message("t", key, value, []), Lease(), position))


@pytest.fixture
async def work() -> AsyncIterator[Callable[[int], Work]]:
    """A function that makes lanes with so many workers, who end after the test."""
    async with asyncio.TaskGroup() as group:

        def start(workers: int) -> Work:
            made = Work(workers)
            made.lanes.start(group)
            return made

        yield start
        for task in group._tasks:
            task.cancel()


async def test_messages_that_never_wait_keep_one_worker_busy_and_wake_no_others(work: Callable[[int], Work]) -> None:
    found = work(8)
    await asyncio.sleep(0)
    found.put(*((f"k{number}", b"") for number in range(20)))
    await until(lambda: len(found.begun) == 20)

    assert len(found.tasks) == 1


async def test_keys_wait_for_each_other_only_where_there_are_no_more_workers(work: Callable[[int], Work]) -> None:
    found = work(3)
    found.put(("a", b"wait"), ("a", b"wait"), ("b", b"wait"), ("c", b"wait"), ("d", b"wait"))
    await until(lambda: len(found.begun) == 3)
    await asyncio.sleep(0.01)
    assert found.begun == ["a0", "b2", "c3"]

    found.go_on.set()
    await until(lambda: len(found.begun) == 5)


async def test_a_key_that_must_wait_keeps_its_order_and_no_worker(work: Callable[[int], Work]) -> None:
    found = work(1)
    found.put(("a", b"later"), ("a", b""), ("b", b""), ("a", b""))
    await until(lambda: len(found.begun) == 2)
    await asyncio.sleep(0.01)
    assert found.begun == ["a0", "b2"]

    found.insisted.set()
    await until(lambda: len(found.begun) == 4)
    assert found.begun == ["a0", "b2", "a1", "a3"]


async def test_messages_without_a_key_wait_for_nothing(work: Callable[[int], Work]) -> None:
    found = work(2)
    found.put(("", b"later"), ("", b"wait"), ("", b""))
    await until(lambda: len(found.begun) == 3)


async def test_a_key_that_is_done_leaves_nothing_behind(work: Callable[[int], Work]) -> None:
    found = work(2)
    found.put(("a", b""), ("a", b""), ("b", b""))
    await until(lambda: len(found.begun) == 3 and not found.lanes._lanes)


@pytest.mark.parametrize(
    "url", ["kafka://broker:9092", "amqps://user:hunter2@broker/vhost", "redis://:hunter2@broker/0"]
)
def test_a_broker_is_named_by_a_url_whose_password_is_not_shown(url: str) -> None:
    assert "hunter2" not in str(EventsSettings(url=SecretUrl(url)).url)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EVENTS_URL", "nats://broker", "must begin with one of memory://, kafka://"),
        ("EVENTS_RETRY_DELAYS", "1,soon", "must be seconds from 0 to 86400"),
        ("EVENTS_RETRY_DELAYS", "1,-1", "must be seconds from 0 to 86400"),
        ("EVENTS_PARTITIONS", "0", "greater than or equal to 1"),
        ("EVENTS_PREFIX", "a b", "should match pattern"),
    ],
)
def test_a_wrong_setting_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    class Settings(ServiceSettings):
        events: EventsSettings = EventsSettings()

    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load(Settings)
    assert f"{name}: " in str(error.value)
    assert message in str(error.value)


def test_production_refuses_a_broker_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(ServiceSettings):
        events: EventsSettings = EventsSettings()

    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SettingsError, match="EVENTS_URL: is embedded"):
        load(Settings)


def test_delays_are_seconds_one_by_one() -> None:
    assert EventsSettings(retry_delays="1, 2.5,").delays == (1.0, 2.5)
    assert EventsSettings(retry_delays="").delays == ()


def test_a_broker_without_its_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "marty_lib._kafka", None)

    with pytest.raises(StartError, match=r"depend on marty-lib\[events-kafka\]"):
        Events(EventsSettings(url=SecretUrl("kafka://broker:9092")))


def test_kafkas_url_says_how_to_connect() -> None:
    from marty_lib._kafka import connection

    plain = connection("kafka://one:9092,two:9092")
    assert (plain["bootstrap_servers"], plain["security_protocol"]) == (["one:9092", "two:9092"], "PLAINTEXT")
    secure = connection("kafkas://ada:p%40ss@one:9093?sasl_mechanism=SCRAM-SHA-512")
    assert (secure["security_protocol"], secure["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (secure["sasl_plain_username"], secure["sasl_plain_password"]) == ("ada", "p@ss")


class Part(BaseModel):
    """A part of an order."""

    item: str


@dataclass
class Packed:
    """An order was packed."""

    order: str
    parts: list[Part]


PACKED = EventType("order.packed", Packed, topic="packing.box.v1", source="packing")


def described() -> dict[str, Any]:
    events = Events(EventsSettings(), publishes=[PLACED])
    consumer = Consumer(events, group="orders", version="1.2.3")

    @consumer.on(PACKED)
    async def packed(event: Event, data: Packed) -> None: ...

    return describe(events, consumer)


def test_the_asyncapi_document_says_what_is_sent_and_received() -> None:
    document = described()

    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == {"title": "orders", "version": "1.2.3"}
    assert {name: operation["action"] for name, operation in document["operations"].items()} == {
        "send.order.placed": "send",
        "receive.order.packed": "receive",
    }
    assert document["channels"]["packing.box.v1"]["address"] == "packing.box.v1"
    assert document["components"]["messages"]["order.placed"]["summary"] == "An order was placed."


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    document = described()
    waiting, seen = deque([document]), 0
    while waiting:
        part: Any = waiting.popleft()
        if isinstance(part, dict) and "$ref" in part:
            target: Any = document
            for step in part["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            seen += 1
        waiting.extend(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())

    assert seen >= 7


async def test_the_asyncapi_command_prints_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    consumer = Consumer(Events(EventsSettings(), publishes=[PLACED]), group="orders")
    await consumer.commands["asyncapi"]([])

    assert "order.placed" in json.loads(capsys.readouterr().out)["components"]["messages"]


@pytest.mark.parametrize("command", ["redrive", "dead-letters"])
async def test_dead_letters_in_another_processs_memory_are_out_of_reach(command: str) -> None:
    consumer = Consumer(Events(EventsSettings()), group="orders")

    with pytest.raises(StartError, match="name a broker"):
        await consumer.commands[command](["--limit", "1"])


@pytest.mark.parametrize("limit", ["0", "-1", "some"])
async def test_a_limit_that_is_no_number_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    consumer = Consumer(Events(EventsSettings()), group="orders")

    with pytest.raises(SystemExit):
        await consumer.commands["redrive"]([f"--limit={limit}"])
    assert "is no number of dead letters" in capsys.readouterr().err


def test_an_event_type_has_one_handler_in_a_group() -> None:
    consumer = Consumer(Events(EventsSettings()), group="orders")

    async def handle(event: Event, data: Placed) -> None: ...

    consumer.on(PLACED)(handle)
    with pytest.raises(ValueError, match="there is a handler for 'order"):
        consumer.on(PLACED)


class Slow(Events):
    """A connection whose broker takes a moment, or is away."""

    def __init__(self) -> None:
        super().__init__(EventsSettings())
        self.batches: list[int] = []
        self.away = False

    async def forward(self, messages: Sequence[Message]) -> None:
        self.batches.append(len(messages))
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("The event broker is away: try again.")


async def test_what_is_published_at_one_moment_is_sent_together() -> None:
    events = Slow()
    await asyncio.gather(*(events.publish(PLACED.event(Placed(number=n), key="a")) for n in range(5)))
    await events.publish(PLACED.event(Placed(number=5), key="a"))

    assert events.batches == [5, 1]


async def test_each_who_publishes_is_told_that_the_broker_is_away() -> None:
    events = Slow()
    events.away = True
    told = await asyncio.gather(
        *(events.publish(PLACED.event(Placed(number=n), key="a")) for n in range(3)), return_exceptions=True
    )

    assert [type(error) for error in told] == [Unavailable] * 3
    assert len(set(map(id, told))) == 3


async def test_one_who_gives_up_takes_nobody_along() -> None:
    events = Slow()
    first, second = (asyncio.create_task(events.publish(PLACED.event(Placed(number=n), key="a"))) for n in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second

    assert (first.cancelled(), events.batches) == (True, [2])


async def test_an_event_that_no_broker_takes_is_refused_at_once() -> None:
    with pytest.raises(PayloadTooLarge):
        await Slow().publish(PLACED.event(Placed(number=1), key="a")._replace(data=b" " * 1_000_000))
