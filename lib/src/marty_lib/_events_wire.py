"""Events on the wire: CloudEvents 1.0 in binary mode, so that the data stays as it came, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from random import getrandbits
from typing import NamedTuple

from marty_lib import context
from marty_lib.context import RequestContext

Headers = Sequence[tuple[str, bytes]]

CONTENT_TYPE = "content-type"
JSON = b"application/json"
VERSION = b"1.0"
# Brokers refuse more than a megabyte; in an outbox, what cannot be published would hold up all behind it.
LARGEST = 900_000


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
    return f"{getrandbits(128):032x}"


def carried() -> tuple[str, str, str]:
    """Return request id, traceparent and tracestate of the work under way; empty outside of any."""
    current = context.current()
    if current is None:
        return "", "", ""
    trace = f"00-{current.trace_id}-{current.span_id}-{int(current.sampled):02x}"
    return current.request_id, trace, current.tracestate


@lru_cache(1024)
def _named(source: str, kind: str) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that all events of a type have."""
    return (
        ("ce_specversion", VERSION),
        ("ce_source", source.encode()),
        ("ce_type", kind.encode()),
        (CONTENT_TYPE, JSON),
    )


def encode(event: Event) -> Message:
    """Return the message that carries an event."""
    identity, source, kind, moment, topic, data, key, subject, dataschema, request_id, traceparent, tracestate = event
    headers = [*_named(source, kind), ("ce_id", identity.encode()), ("ce_time", moment.encode())]
    if subject:
        headers.append(("ce_subject", subject.encode()))
    if key:
        headers.append(("ce_partitionkey", key.encode()))
    if dataschema:
        headers.append(("ce_dataschema", dataschema.encode()))
    if request_id:
        headers.append(("ce_correlationid", request_id.encode()))
    if traceparent:
        headers.append(("ce_traceparent", traceparent.encode()))
    if tracestate:
        headers.append(("ce_tracestate", tracestate.encode()))
    return Message(topic, key, data, headers)


def decode(message: Message) -> Event:
    """Return the event that a message carries.

    Raises:
        InvalidEvent: where it carries none.
    """
    topic, key, value, headers = message
    found = dict(headers)
    if found.get("ce_specversion") != VERSION:
        raise InvalidEvent("it has no header ce_specversion of 1.0")
    try:
        # Not by Event's constructor, one of Python's functions: this is done for each message.
        event = tuple.__new__(
            Event,
            (
                found["ce_id"].decode(),
                found["ce_source"].decode(),
                found["ce_type"].decode(),
                found["ce_time"].decode() if "ce_time" in found else "",
                topic,
                value,
                key,
                found["ce_subject"].decode() if "ce_subject" in found else "",
                found["ce_dataschema"].decode() if "ce_dataschema" in found else "",
                found["ce_correlationid"].decode() if "ce_correlationid" in found else "",
                found["ce_traceparent"].decode() if "ce_traceparent" in found else "",
                found["ce_tracestate"].decode() if "ce_tracestate" in found else "",
            ),
        )
    except KeyError as error:
        raise InvalidEvent(f"the header {error.args[0]} is missing") from None
    except (AttributeError, UnicodeDecodeError) as error:  # Kafka's headers may be null
        raise InvalidEvent("a header is not UTF-8") from error
    if "" in event[:3]:
        raise InvalidEvent("one of the headers ce_id, ce_source and ce_type is empty")
    return event


def context_of(event: Event, deadline: float) -> RequestContext:
    """Return the context in which an event is handled: the request and trace that led to it, and a deadline.

    Args:
        event: what is handled.
        deadline: of its handler, in seconds of `time.monotonic()`.
    """
    if not (event.traceparent or event.correlation_id):
        return context.new(deadline=deadline)
    headers = {
        b"x-request-id": event.correlation_id.encode(),
        b"traceparent": event.traceparent.encode(),
        b"tracestate": event.tracestate.encode(),
    }
    return context.described(headers, latest=deadline)
