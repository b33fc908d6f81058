"""Events on every broker: handled at least once, in order per key, tried again, laid aside, given back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from marty_lib import InvalidInput, NotFound, Unavailable, context
from marty_lib._broker import Delivery
from marty_lib._events_wire import Message
from marty_lib._redrive import redrive
from marty_lib.events import Event, EventType
from prometheus_client import REGISTRY

from .event_kit import Kit, Placed, by_key, kit_of, notes, until

BROKERS = ["memory", "kafka", "rabbitmq", "redis"]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.xdist_group(f"events-{name}")) for name in BROKERS])
async def kit(request: pytest.FixtureRequest, topic_prefix: str) -> AsyncIterator[Kit]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")
    async with kit_of(url, topic_prefix) as found:
        yield found


async def test_an_event_reaches_its_handler_with_its_data_and_its_attributes(kit: Kit) -> None:
    events = await kit.events()
    consumer, seen = kit.consumer(events), list[tuple[Event, Placed]]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        seen.append((event, order))

    await kit.started(consumer)
    sent = kit.event(7)
    await events.publish(sent)
    await until(lambda: seen)

    assert seen == [(sent, Placed(number=7))]


async def test_a_handler_works_in_the_request_and_trace_that_led_to_the_event(
    kit: Kit, request_context: context.RequestContext
) -> None:
    events = await kit.events(handler_timeout=17)
    consumer, seen = kit.consumer(events), list[Any]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        current = context.current()
        assert current is not None
        seen.append((current.request_id, current.trace_id, 0 < (context.remaining() or 0) <= 17))

    await kit.started(consumer)
    await events.publish(kit.event(1))
    await until(lambda: seen)

    assert seen == [(request_context.request_id, request_context.trace_id, True)]


async def test_what_was_published_before_the_group_begins_is_kept_once_it_is_declared(kit: Kit) -> None:
    events = await kit.events()
    await events.broker.declare([kit.placed.topic], kit.group)
    await events.publish(*(kit.event(number) for number in range(20)))
    _, seen = await kit.recording(events)
    await until(lambda: len(seen) == 20)

    assert seen == list(range(20))


async def test_each_key_keeps_its_order_while_handlers_fail_now_and_then(kit: Kit) -> None:
    events = await kit.events(attempts=2, retry_delays=",".join(["0.01"] * 8))
    consumer, handled = kit.consumer(events), list[tuple[str, int]]()
    chance = random.Random(3)

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        await asyncio.sleep(chance.random() / 1000)
        if chance.random() < 0.2:
            raise RuntimeError("not now")
        handled.append((event.key, order.number))

    await kit.started(consumer)
    await events.publish(*(kit.event(number, key=f"c{number % 10}") for number in range(300)))
    await until(lambda: len(handled) >= 300)

    assert by_key(handled) == {f"c{key}": list(range(key, 300, 10)) for key in range(10)}


async def test_different_keys_are_handled_side_by_side(kit: Kit) -> None:
    events = await kit.events()
    consumer, together = kit.consumer(events), asyncio.Barrier(3)

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        await together.wait()
        done.append(event.key)

    done: list[str] = []
    await kit.started(consumer)
    await events.publish(*(kit.event(1, key=key) for key in ("ada", "bob", "eve")))
    await until(lambda: len(done) == 3)


async def test_a_failed_message_is_tried_again_at_once_and_then_after_delays(kit: Kit) -> None:
    events = await kit.events(attempts=2, retry_delays="0.01,0.01")
    consumer, tries = kit.consumer(events), list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        tries.append(order.number)
        if len(tries) < 6:
            raise RuntimeError("not yet")

    await kit.started(consumer)
    await events.publish(kit.event(1))
    await until(lambda: len(tries) == 6)


async def test_later_events_of_a_key_wait_for_one_that_is_tried_again_and_others_do_not(kit: Kit) -> None:
    events = await kit.events(attempts=1, retry_delays="0.3")
    consumer, handled, failed = kit.consumer(events), list[tuple[str, int]](), list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        if order.number == 1 and not failed:
            failed.append(1)
            raise RuntimeError("not now")
        handled.append((event.key, order.number))

    await kit.started(consumer)
    await events.publish(kit.event(1, "ada"), kit.event(2, "ada"), kit.event(3, "bob"))
    await until(lambda: len(handled) == 3)

    assert handled == [("bob", 3), ("ada", 1), ("ada", 2)]


async def test_what_needs_no_order_is_tried_again_by_the_retry_topic_and_overtaken(kit: Kit) -> None:
    events = await kit.events(attempts=1, retry_delays="0.3,0.3")
    consumer, handled, failed = kit.consumer(events), list[int](), list[int]()

    @consumer.on(kit.placed, ordered=False)
    async def handle(event: Event, order: Placed) -> None:
        if order.number == 1 and len(failed) < 2:
            failed.append(1)
            raise RuntimeError("not now")
        handled.append(order.number)

    await kit.started(consumer)
    await events.publish(kit.event(1), kit.event(2))
    await until(lambda: len(handled) == 2)

    assert (handled, len(failed)) == ([2, 1], 2)


async def test_a_message_that_fails_for_good_is_a_dead_letter_that_says_why(
    kit: Kit, request_context: context.RequestContext, logs: Any
) -> None:
    events = await kit.events(attempts=2, retry_delays="0.01")
    consumer, handled = kit.consumer(events), list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        if order.number == 1:
            raise NotFound("There is no such customer.", code="customer-not-found")
        handled.append(order.number)

    await kit.started(consumer)
    poison = kit.event(1)
    await events.publish(poison, kit.event(2))
    [letter] = await kit.dead_letters(events, 1)
    await until(lambda: handled == [2])

    found = notes(letter)
    assert (letter.key, letter.value) == (poison.key, poison.data)
    assert found["marty_reason"] == "customer-not-found"
    assert found["marty_detail"] == "There is no such customer."
    assert found["marty_attempts"] == "2"
    assert found["marty_topic"] == kit.placed.topic
    assert found["ce_id"] == poison.id
    assert found["ce_traceparent"].split("-")[1] == request_context.trace_id
    assert any(line.get("error_id") == found["marty_error_id"] for line in logs.lines)
    labels = {"topic": kit.placed.topic, "reason": "customer-not-found"}
    assert REGISTRY.get_sample_value("events_dead_letters_total", labels) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda message: message._replace(value=b"\xff no JSON"), "invalid-data"),
        (lambda message: message._replace(value=b'{"number": "many"}'), "invalid-data"),
        (lambda message: message._replace(headers=message.headers[1:]), "invalid-event"),
    ],
)
async def test_an_invalid_message_is_a_dead_letter_at_once_and_holds_nobody_up(
    kit: Kit, spoil: Any, reason: str
) -> None:
    from marty_lib._events_wire import encode

    events = await kit.events()
    _, handled = await kit.recording(events)
    spoilt: Message = spoil(encode(kit.event(1)))
    await events.broker.declare([kit.placed.topic], kit.group)
    await events.send([spoilt, encode(kit.event(2))])
    [letter] = await kit.dead_letters(events, 1)
    await until(lambda: handled == [2])

    assert letter.value == spoilt.value
    assert (notes(letter)["marty_reason"], notes(letter)["marty_attempts"]) == (reason, "1")
    assert "many" not in notes(letter)["marty_detail"]


async def test_invalid_input_is_not_tried_again(kit: Kit) -> None:
    events = await kit.events(attempts=5)
    consumer, tries = kit.consumer(events), list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        tries.append(order.number)
        raise InvalidInput("The quantity is too large.")

    await kit.started(consumer)
    await events.publish(kit.event(1))
    [letter] = await kit.dead_letters(events, 1)

    assert (tries, notes(letter)["marty_reason"]) == ([1], "invalid-input")


async def test_a_handler_that_takes_too_long_has_failed(kit: Kit) -> None:
    events = await kit.events(attempts=1, retry_delays="", handler_timeout=0.05)
    consumer = kit.consumer(events)

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        await asyncio.Event().wait()

    await kit.started(consumer)
    await events.publish(kit.event(1))
    [letter] = await kit.dead_letters(events, 1)

    assert notes(letter)["marty_reason"] == "timeout"


async def test_while_something_is_away_a_message_is_tried_until_it_is_back(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marty_lib._handling.OUTAGE_PAUSE", 0.01)
    events = await kit.events(attempts=1, retry_delays="")
    consumer, tries = kit.consumer(events), list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        tries.append(order.number)
        if len(tries) < 20:
            raise Unavailable("The database is away.")

    await kit.started(consumer)
    await events.publish(kit.event(1))
    await until(lambda: len(tries) == 20)


async def test_events_of_other_types_are_passed_over(kit: Kit) -> None:
    events = await kit.events()
    other = EventType("order.forgotten", Placed, topic=kit.placed.topic, source="orders")
    _, handled = await kit.recording(events)
    await events.broker.declare([kit.placed.topic], kit.group)
    await events.publish(other.event(Placed(number=1), key="ada"), kit.event(2))
    await until(lambda: handled)

    assert handled == [2]


async def test_draining_finishes_what_is_under_way_and_gives_the_rest_back(kit: Kit) -> None:
    events = await kit.events(concurrency=1)
    first, began, go_on, handled = kit.consumer(events), asyncio.Event(), asyncio.Event(), list[int]()

    @first.on(kit.placed)
    async def hold(event: Event, order: Placed) -> None:
        began.set()
        await go_on.wait()
        handled.append(order.number)

    await kit.started(first)
    await events.publish(*(kit.event(number) for number in range(10)))
    await began.wait()
    draining = asyncio.create_task(first.drain())
    await until(lambda: first.draining)
    assert not draining.done()
    go_on.set()
    await draining
    await first.stop()
    assert handled == [0]

    second = kit.consumer(await kit.events())

    @second.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        handled.append(order.number)

    await kit.started(second)
    await until(lambda: len(handled) == 10)

    assert handled == list(range(10))


async def test_what_was_under_way_when_a_member_vanished_is_delivered_again(kit: Kit) -> None:
    events = await kit.events()
    first, began = kit.consumer(events), asyncio.Event()

    @first.on(kit.placed)
    async def hold(event: Event, order: Placed) -> None:
        began.set()
        await asyncio.Event().wait()

    await kit.started(first)
    await events.publish(kit.event(1), kit.event(2))
    await began.wait()
    await first.stop()

    _, handled = await kit.recording(await kit.events())
    await until(lambda: len(handled) == 2)

    assert handled == [1, 2]


async def test_no_more_messages_are_under_way_than_allowed(kit: Kit) -> None:
    events = await kit.events(max_in_flight=5, concurrency=16)
    consumer, go_on, handled = kit.consumer(events), asyncio.Event(), list[int]()
    most = 0

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        nonlocal most
        await go_on.wait()
        most = max(most, consumer.in_flight)
        handled.append(order.number)

    await kit.started(consumer)
    await events.publish(*(kit.event(number, key=f"c{number}") for number in range(40)))
    await until(lambda: consumer.in_flight == 5)
    go_on.set()
    await until(lambda: len(handled) == 40)

    assert most == 5


async def test_a_paused_consumer_takes_nothing_until_it_is_resumed(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    events = await kit.events()
    consumer, handled = await kit.recording(events)
    _, others = await kit.recording(events, group=f"{kit.group}-other")
    fetches = 0

    async def count(limit: int) -> Sequence[Delivery]:
        nonlocal fetches
        fetches += 1
        return await fetch(limit)

    await events.publish(kit.event(1))
    await until(lambda: handled == [1])
    consumer.pause()
    await until(lambda: not consumer._taking.locked())  # a fetch that has begun may end
    assert consumer._source is not None
    fetch = consumer._source.fetch
    monkeypatch.setattr(consumer._source, "fetch", count)
    await events.publish(kit.event(2))
    await until(lambda: 2 in others)
    assert (handled, fetches) == ([1], 0)

    consumer.resume()
    await until(lambda: handled == [1, 2])


async def test_the_lag_is_what_the_group_has_yet_to_finish(kit: Kit) -> None:
    events = await kit.events()
    consumer, go_on, handled = kit.consumer(events), asyncio.Event(), list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        handled.append(order.number)
        await go_on.wait()

    await kit.started(consumer)
    await events.publish(*(kit.event(number) for number in range(10)))
    await until(lambda: handled)
    source = consumer._source
    assert source is not None
    if "amqp" not in kit.url:  # RabbitMQ counts only what waits in its queues
        assert (await source.lag())[kit.placed.topic] == 10
    go_on.set()
    await until(lambda: len(handled) == 10)
    await consumer.drain()
    # What was finished is committed, so that nothing is left.
    again = kit.consumer(events)
    again.on(kit.placed)(handle)
    await consumer.stop()
    await kit.started(again)
    await events.publish(kit.event(10))
    await until(lambda: len(handled) == 11)

    assert handled == list(range(11))


async def test_dead_letters_are_handled_again_when_they_are_redriven(kit: Kit) -> None:
    events = await kit.events(attempts=1, retry_delays="")
    consumer, broken, handled = kit.consumer(events), True, list[int]()

    @consumer.on(kit.placed)
    async def handle(event: Event, order: Placed) -> None:
        if broken:
            raise RuntimeError("a bug")
        handled.append(order.number)

    await kit.started(consumer)
    await events.publish(*(kit.event(number) for number in range(3)))
    await kit.dead_letters(events, 3)
    broken = False
    moved = await redrive(events, kit.group, consumer.topics, quiet=1)
    await until(lambda: len(handled) == 3)

    assert (moved, handled) == (3, [0, 1, 2])


async def test_redriving_keeps_to_a_limit_and_to_a_type(kit: Kit) -> None:
    events = await kit.events(attempts=1, retry_delays="")
    other = EventType("order.forgotten", Placed, topic=kit.placed.topic, source="orders")
    consumer, broken, handled = kit.consumer(events), True, Counter[str]()

    async def handle(event: Event, order: Placed) -> None:
        if broken:
            raise RuntimeError("a bug")
        handled[event.type] += 1

    consumer.on(kit.placed)(handle)
    consumer.on(other)(handle)
    await kit.started(consumer)
    await events.publish(*(kit.event(number) for number in range(4)), other.event(Placed(number=9), key="bob"))
    await kit.dead_letters(events, 5)
    broken = False
    moved = [
        await redrive(events, kit.group, consumer.topics, kind="order.placed", limit=3, quiet=1),
        await redrive(events, kit.group, consumer.topics, kind="order.placed", quiet=1),
        await redrive(events, kit.group, consumer.topics, quiet=1),
    ]
    await until(lambda: handled.total() == 5)

    assert (moved, handled) == ([3, 1, 1], {"order.placed": 4, "order.forgotten": 1})


async def test_two_members_of_a_group_share_the_messages_and_keep_the_order(kit: Kit) -> None:
    handled: list[tuple[str, int]] = []

    async def handle(event: Event, order: Placed) -> None:
        handled.append((event.key, order.number))

    members = [kit.consumer(await kit.events()) for _ in range(2)]
    for member in members:
        member.on(kit.placed)(handle)
        await kit.started(member)
    events = await kit.events()
    await events.broker.declare([kit.placed.topic], kit.group)
    await events.publish(*(kit.event(number, key=f"c{number % 10}") for number in range(200)))
    await until(lambda: len(set(handled)) == 200)
    await members[0].drain()
    await members[0].stop()
    await events.publish(*(kit.event(number, key=f"c{number % 10}") for number in range(200, 300)))
    await until(lambda: len(set(handled)) == 300)

    first_times = list(dict.fromkeys(handled))
    assert by_key(first_times) == {f"c{key}": list(range(key, 300, 10)) for key in range(10)}
