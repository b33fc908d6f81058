"""Events on the wire: CloudEvents 1.0 in binary mode, so that the data stays as it came, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import uuid4

from marty_lib import context
from marty_lib.context import RequestContext

Headers = Sequence[tuple[str, bytes]]

CONTENT_TYPE = "content-type"
JSON = b"application/json"
VERSION = b"1.0"


class Message(NamedTuple):
    """What a broker carries.

    Args:
        topic: where to.
        key: messages of one key keep their order; '' has none.
        value: the data.
        headers: names and values; several of one name are allowed, the last counts.
    """

    topic: str
    key: str
    value: bytes
    headers: Headers


class Event(NamedTuple):
    """Something that has happened: the attributes of CloudEvents, and the data as bytes.

    Args:
        id: one event has one id, however often it is delivered.
        source: who says so; `source` and `id` together are unique.
        type: what has happened, such as `order.placed`.
        time: when, as RFC 3339.
        topic: where it is published.
        data: JSON.
        key: events of one key keep their order.
        subject: to what it happened, within the source.
        dataschema: URI of the data's schema.
        correlation_id: the request that led to it.
        traceparent: the trace of it (W3C).
        tracestate: the vendors' part of the trace.
    """

    id: str
    source: str
    type: str
    time: str
    topic: str
    data: bytes
    key: str = ""
    subject: str = ""
    dataschema: str = ""
    correlation_id: str = ""
    traceparent: str = ""
    tracestate: str = ""


class InvalidEvent(ValueError):
    """A message is no event; the text says why, and shows nothing of its content."""


def now() -> str:
    """Return the time as RFC 3339."""
    return datetime.now(UTC).isoformat()


def new_id() -> str:
    """Return an id that no other event has."""
    return str(uuid4())


def carried() -> tuple[str, str, str]:
    """Return request id, traceparent and tracestate of the work under way; empty outside of any."""
    current = context.current()
    if current is None:
        return "", "", ""
    trace = f"00-{current.trace_id}-{current.span_id}-{int(current.sampled):02x}"
    return current.request_id, trace, current.tracestate


def encode(event: Event) -> Message:
    """Return the message that carries an event."""
    headers = [
        ("ce_specversion", VERSION),
        ("ce_id", event.id.encode()),
        ("ce_source", event.source.encode()),
        ("ce_type", event.type.encode()),
        ("ce_time", event.time.encode()),
        (CONTENT_TYPE, JSON),
    ]
    for name, value in (
        ("ce_subject", event.subject),
        ("ce_dataschema", event.dataschema),
        ("ce_partitionkey", event.key),
        ("ce_correlationid", event.correlation_id),
        ("ce_traceparent", event.traceparent),
        ("ce_tracestate", event.tracestate),
    ):
        if value:
            headers.append((name, value.encode()))
    return Message(event.topic, event.key, event.data, headers)


def decode(message: Message) -> Event:
    """Return the event that a message carries.

    Raises:
        InvalidEvent: where it carries none.
    """
    found = dict(message.headers).get
    if found("ce_specversion") != VERSION:
        raise InvalidEvent("it has no header ce_specversion of 1.0")
    try:
        event = Event(
            found("ce_id", b"").decode(),
            found("ce_source", b"").decode(),
            found("ce_type", b"").decode(),
            found("ce_time", b"").decode(),
            message.topic,
            message.value,
            message.key,
            found("ce_subject", b"").decode(),
            found("ce_dataschema", b"").decode(),
            found("ce_correlationid", b"").decode(),
            found("ce_traceparent", b"").decode(),
            found("ce_tracestate", b"").decode(),
        )
    except (AttributeError, UnicodeDecodeError) as error:  # Kafka's headers may be null
        raise InvalidEvent("a header is not UTF-8") from error
    if not (event.id and event.source and event.type):
        raise InvalidEvent("one of the headers ce_id, ce_source and ce_type is missing")
    return event


def context_of(event: Event, seconds: float) -> RequestContext:
    """Return the context in which an event is handled: the request and trace that led to it, and a deadline.

    Args:
        event: what is handled.
        seconds: that its handler has.
    """
    headers = (
        (b"x-request-id", event.correlation_id.encode()),
        (b"traceparent", event.traceparent.encode()),
        (b"tracestate", event.tracestate.encode()),
    )
    return context.from_headers(headers)._replace(deadline=time.monotonic() + seconds)
