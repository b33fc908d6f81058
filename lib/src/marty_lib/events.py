"""Events: what has happened, published for whoever wants to know, and handled at least once, in order per key.

    ORDERS = topic_name("order-service", "order")
    PLACED = EventType("order.placed", OrderPlaced, topic=ORDERS, source="order-service")

    events = app.add(Events(settings.events))
    consumer = app.add(Consumer(events, group="order-service"))

    @consumer.on(PLACED)
    async def placed(event: Event, order: OrderPlaced) -> None: ...

    await events.publish(PLACED.event(OrderPlaced(...), key=order_id))

The scheme of `EVENTS_URL` names the broker. An event that belongs to a change in the database goes through the outbox
(`marty_lib.outbox`), which publishes it if and only if the change is committed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from marty_lib import log, metrics
from marty_lib._broker import Broker
from marty_lib._consumer import Consumer as Consumer
from marty_lib._dead_letters import dead_topic as dead_topic
from marty_lib._dead_letters import retry_topic as retry_topic
from marty_lib._deadlines import Deadlines, Limit
from marty_lib._events_settings import BROKERS
from marty_lib._events_settings import EventsSettings as EventsSettings
from marty_lib._events_wire import LARGEST, Message, carried, encode, new_id, now
from marty_lib._events_wire import Event as Event
from marty_lib._events_wire import InvalidEvent as InvalidEvent
from marty_lib.errors import PayloadTooLarge, StartError, Unavailable

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9-]*")


def topic_name(service: str, entity: str, version: int = 1) -> str:
    """Return the topic of a service's events about one kind of thing, such as `order-service.order.v1`.

    Args:
        service: that publishes there, and nobody else.
        entity: what the events are about; all events of one such thing have one key, so that they keep their order.
        version: raised where the events change in a way that consumers would not understand.

    Raises:
        ValueError: where a name would not be accepted by every broker.
    """
    for name in (service, entity):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be part of a topic: use lower-case letters, digits and hyphens")
    return f"{service}.{entity}.v{version}"


@dataclass(frozen=True, slots=True)
class EventType(Generic[T]):
    """A type of events: its name, its data, and where it is published.

    Args:
        name: such as `order.placed`: in the past tense.
        model: of the data: a pydantic model, a dataclass or any type that pydantic knows.
        topic: where it is published.
        source: the service that publishes it.
        description: for the AsyncAPI document; by default the model's docstring.
        dataschema: URI of the data's schema, if it has one.
    """

    name: str
    model: type[T]
    topic: str
    source: str
    description: str = ""
    dataschema: str = ""
    adapter: TypeAdapter[T] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter", TypeAdapter(self.model))

    def event(self, data: T, *, key: str, subject: str = "") -> Event:
        """Return a new event, in the context of the work under way.

        Args:
            data: what is to be known of it.
            key: events of one key keep their order; usually the id of what it happened to.
            subject: to what it happened; by default the key.
        """
        request_id, traceparent, tracestate = carried()
        return Event(
            new_id(),
            self.source,
            self.name,
            now(),
            self.topic,
            self.adapter.dump_json(data),
            key,
            subject or key,
            self.dataschema,
            request_id,
            traceparent,
            tracestate,
        )


class Events:
    """The component that is connected to the broker, and publishes.

    The service starts and goes on while the broker is away, and says so in readiness.

    Args:
        settings: which broker, and how messages are consumed.
        publishes: the types of events that the service publishes, for its AsyncAPI document.
        required: whether the service is not ready while the broker is away.
    """

    def __init__(
        self, settings: EventsSettings, *, publishes: Sequence[EventType[Any]] = (), required: bool = False
    ) -> None:
        self.name = "events"
        self.required = required
        self.settings = settings
        self.publishes = tuple(publishes)
        self.broker = open_broker(settings)
        self._deadlines = Deadlines()
        self._waiting: list[tuple[Sequence[Message], asyncio.Future[None]]] = []
        self._flushing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect, or go on without: the connection is made as soon as it can be."""
        try:
            async with asyncio.timeout(self.settings.publish_timeout):
                await self.broker.open()
        except Exception as error:
            log.get().warning("events.broker_away", url=str(self.settings.url), reason=type(error).__name__)

    async def stop(self) -> None:
        """Disconnect."""
        await self.broker.close()

    async def check(self) -> None:
        """Raise where the broker does not answer."""
        await self.broker.ping()

    async def publish(self, *events: Event) -> None:
        """Return when the broker keeps the events; those of one key in the order given.

        What is published at the same moment is sent together.

        Raises:
            Unavailable: where it does not say so in time; it may keep some of them nevertheless.
            PayloadTooLarge: where a broker would refuse an event.
        """
        messages = self._prefixed([encode(event) for event in events])
        if any(len(message.value) > LARGEST for message in messages):
            raise PayloadTooLarge(f"An event may have {LARGEST} bytes at most.")
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            task = loop.create_task(self._flush())
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)
        self._waiting.append((messages, kept))
        await kept

    async def _flush(self) -> None:
        """Send what all who wait have published."""
        waiting, self._waiting = self._waiting, []
        failed = ""
        try:
            await self.forward([message for messages, _ in waiting for message in messages])
        except Unavailable as error:
            failed = error.detail
        except asyncio.CancelledError:
            for _, kept in waiting:
                kept.cancel()
            raise
        for _, kept in waiting:
            if failed and not kept.done():
                kept.set_exception(Unavailable(failed))
            elif not kept.done():
                kept.set_result(None)

    async def send(self, messages: Sequence[Message]) -> None:
        """As `publish`, for what is a message already."""
        await self.forward(self._prefixed(messages))

    def _prefixed(self, messages: Sequence[Message]) -> Sequence[Message]:
        prefix = self.settings.prefix
        return [message._replace(topic=prefix + message.topic) for message in messages] if prefix else messages

    async def forward(self, messages: Sequence[Message]) -> None:
        """As `send`, for topics that have their prefix already."""
        began = time.perf_counter()
        outcome = "error"
        try:
            with Limit(self._deadlines, time.monotonic() + self.settings.publish_timeout):
                await self.broker.publish(messages)
            outcome = "ok"
        except Exception as error:
            log.get().warning("events.not_published", messages=len(messages), reason=type(error).__name__)
            raise Unavailable("The event broker is away: try again.") from error
        finally:
            metrics.EVENTS_PUBLISHED.observe(time.perf_counter() - began, outcome)
        _count(messages)


def _count(messages: Sequence[Message]) -> None:
    if len(messages) == 1:
        metrics.count_sent(messages[0].topic, 1)
        return
    for topic, count in Counter([message.topic for message in messages]).items():
        metrics.count_sent(topic, count)


def open_broker(settings: EventsSettings) -> Broker:
    """Return the broker that the URL names, not yet connected.

    Raises:
        StartError: where its client is not installed.
    """
    scheme = urlsplit(settings.url.get_secret_value()).scheme
    module, extra = BROKERS[scheme]
    try:
        made: Any = import_module(f"marty_lib.{module}").create(settings)
    except ImportError as error:
        raise StartError(
            f"EVENTS_URL begins with {scheme}:// but its client is missing: depend on marty-lib[{extra}]"
        ) from error
    return cast(Broker, made)
