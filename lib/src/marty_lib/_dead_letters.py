"""Messages that are laid aside: to be tried later, or dead until somebody has them tried again.

Both are the message as it came, data untouched, with headers that say what happened. They are of one group alone, so
that no other group sees them twice.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from marty_lib._events_wire import Message, now

ATTEMPTS = "marty_attempts"
NOT_BEFORE = "marty_not_before"
RUN = "marty_redrive"
PREFIX = "marty_"


class Failure(NamedTuple):
    """Why a message was not handled.

    Args:
        reason: a stable name for programs.
        detail: for people, without the message's content.
        permanent: whether trying again is of no use.
        outage: whether something that the handler needs is away, which is not the message's fault.
        ordered: whether later messages of its key must wait for it.
        error_id: under which the log holds the rest.
    """

    reason: str
    detail: str
    permanent: bool = False
    outage: bool = False
    ordered: bool = True
    error_id: str = ""


def retry_topic(topic: str, group: str) -> str:
    """Return the topic of messages that the group tries again later."""
    return f"{topic}.{group}.retry"


def dead_topic(topic: str, group: str) -> str:
    """Return the topic of the group's dead letters."""
    return f"{topic}.{group}.dead"


def redriver(group: str) -> str:
    """Return the group that reads a group's dead letters."""
    return f"{group}.redrive"


def origin(topic: str, group: str) -> str:
    """Return the topic that a message of the group was published to at first."""
    for suffix in (f".{group}.retry", f".{group}.dead"):
        topic = topic.removesuffix(suffix)
    return topic


def later(message: Message, group: str, rows: int, seconds: float) -> Message:
    """Return the message that is tried again after so many seconds, when `rows` rows of attempts have failed."""
    notes = {ATTEMPTS: str(rows), NOT_BEFORE: f"{time.time() + seconds:.3f}"}
    return _noted(message, retry_topic(origin(message.topic, group), group), notes)


def dead(message: Message, group: str, failure: Failure, rows: int) -> Message:
    """Return the dead letter of a message; its trace and request are in its own headers."""
    notes = {
        "marty_reason": failure.reason,
        "marty_detail": failure.detail[:500],
        ATTEMPTS: str(rows + 1),
        "marty_error_id": failure.error_id,
        "marty_failed_at": now(),
        "marty_topic": origin(message.topic, group),
        "marty_group": group,
    }
    return _noted(message, dead_topic(origin(message.topic, group), group), notes)


def revived(message: Message, group: str) -> Message:
    """Return the message that has a dead letter handled as if it were new."""
    return _noted(message, retry_topic(origin(message.topic, group), group), {})


def seen(message: Message, run: str) -> Message:
    """Return the dead letter, laid aside again by a run of `redrive`."""
    kept = [(name, value) for name, value in message.headers if name != RUN]
    return message._replace(headers=[*kept, (RUN, run.encode())])


def note(message: Message, name: str) -> str:
    """Return the text in a header, or '' where there is none."""
    return (dict(message.headers).get(name) or b"").decode(errors="replace")


def rows(message: Message) -> int:
    """Return how many rows of attempts have failed before."""
    return int(_number(message, ATTEMPTS))


def not_before(message: Message) -> float:
    """Return the time before which a message is not to be tried, in seconds since 1970."""
    return _number(message, NOT_BEFORE)


def _number(message: Message, name: str) -> float:
    """Return the number in a header, or 0 where there is none: what cannot be read must not stop the others."""
    try:
        return min(1e12, max(0.0, float(dict(message.headers)[name])))
    except (KeyError, TypeError, ValueError):
        return 0.0


def _noted(message: Message, topic: str, notes: dict[str, str]) -> Message:
    kept = [(name, value or b"") for name, value in message.headers if not name.startswith(PREFIX)]
    return message._replace(topic=topic, headers=[*kept, *((name, value.encode()) for name, value in notes.items())])
