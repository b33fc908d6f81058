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
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, field_validator

from marty_lib import log, metrics
from marty_lib._broker import Broker
from marty_lib._consumer import Consumer as Consumer
from marty_lib._dead_letters import dead_topic as dead_topic
from marty_lib._dead_letters import retry_topic as retry_topic
from marty_lib._events_wire import Event as Event
from marty_lib._events_wire import InvalidEvent as InvalidEvent
from marty_lib._events_wire import Message, carried, encode, new_id, now
from marty_lib.errors import StartError, Unavailable
from marty_lib.settings import Embedded, SecretUrl, Section

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9-]*")
# Scheme of the URL: module, the extra that has its client.
BROKERS = {
    "memory": ("_memory_broker", "events"),
    "kafka": ("_kafka", "events-kafka"),
    "kafkas": ("_kafka", "events-kafka"),
    "amqp": ("_rabbitmq", "events-rabbitmq"),
    "amqps": ("_rabbitmq", "events-rabbitmq"),
    "redis": ("_redis_streams", "events-redis"),
    "rediss": ("_redis_streams", "events-redis"),
}


class EventsSettings(Section):
    """The event broker, and how messages are consumed."""

    url: Annotated[
        SecretUrl,
        Embedded(SecretUrl("memory://"), "Its events are lost with the process: set the URL of a broker"),
    ] = SecretUrl("memory://")
    """kafka://host:9092,host:9092 (kafkas:// with TLS), amqp://user:password@host/vhost, redis://host:6379/0."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    """Partitions of topics that are made here. The same in all services that share a topic, and for ever."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """How many keys are worked on at a time."""
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Messages that are fetched before others are finished, at most."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Tries of a message in a row."""
    retry_delays: str = "1,10,60"
    """Seconds before each further row of tries, separated by commas; after the last one the message is dead."""
    handler_timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds that a handler has for one message."""
    publish_timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds in which the broker must keep what is published."""

    @field_validator("url")
    @classmethod
    def _known(cls, url: SecretUrl) -> SecretUrl:
        if urlsplit(url.get_secret_value()).scheme not in BROKERS:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in BROKERS)}")
        return url

    @field_validator("retry_delays")
    @classmethod
    def _seconds(cls, text: str) -> str:
        try:
            wrong = any(not 0 <= seconds <= 86_400 for seconds in _numbers(text))
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError("must be seconds from 0 to 86400, separated by commas, such as 1,10,60")
        return text

    @property
    def delays(self) -> tuple[float, ...]:
        """The seconds of `retry_delays`, one by one."""
        return _numbers(self.retry_delays)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())


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
        required: whether the service is not ready while the broker is away.
    """

    def __init__(self, settings: EventsSettings, *, required: bool = False) -> None:
        self.name = "events"
        self.required = required
        self.settings = settings
        self.broker = open_broker(settings)

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

        Raises:
            Unavailable: where it does not say so in time; it may keep some of them nevertheless.
        """
        await self.send([encode(event) for event in events])

    async def send(self, messages: Sequence[Message]) -> None:
        """As `publish`, for what is a message already."""
        began = time.perf_counter()
        outcome = "error"
        try:
            async with asyncio.timeout(self.settings.publish_timeout):
                await self.broker.publish(messages)
            outcome = "ok"
        except Exception as error:
            log.get().warning("events.not_published", messages=len(messages), reason=type(error).__name__)
            raise Unavailable("The event broker is away: try again.") from error
        finally:
            metrics.EVENTS_PUBLISHED.labels(outcome).observe(time.perf_counter() - began)
        _count(messages)


def _count(messages: Sequence[Message]) -> None:
    counts: dict[str, int] = {}
    for message in messages:
        counts[message.topic] = counts.get(message.topic, 0) + 1
    for topic, count in counts.items():
        metrics.EVENTS_SENT.labels(topic).inc(count)


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
