"""Dead letters tried again, when what had broken them is mended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from marty_lib._broker import Delivery
from marty_lib._dead_letters import RUN, dead_topic, note, redriver, revived, seen
from marty_lib._events_wire import Message

if TYPE_CHECKING:
    from marty_lib.events import Events

BATCH = 100
QUIET = 5.0


async def redrive(
    events: Events, group: str, topics: list[str], *, limit: int | None = None, kind: str = "", quiet: float = QUIET
) -> int:
    """Have the group handle its dead letters as if they were new; return how many.

    Dead letters of other types are laid aside again, behind the rest.

    Args:
        events: the connection.
        group: whose dead letters.
        topics: that the messages were published to.
        limit: how many at most; None is all that there are.
        kind: only those of this type; '' is any.
        quiet: seconds without a dead letter after which there are none left.
    """
    run = uuid4().hex
    await events.broker.open()
    source = events.broker.source([dead_topic(topic, group) for topic in topics], redriver(group))
    await source.open()
    moved, last = 0, time.monotonic()
    try:
        while (limit is None or moved < limit) and time.monotonic() - last < quiet:
            found = await source.fetch(BATCH if limit is None else min(BATCH, limit - moved))
            fresh = [delivery for delivery in found if note(delivery.message, RUN) != run]
            if fresh:
                last = time.monotonic()
                moved += await _move(events, group, fresh, kind, run)
                await source.commit()
            if len(fresh) < len(found):
                break  # what this run has laid aside comes round
        return moved
    finally:
        await source.settle()
        await source.close()


async def dead_letters(
    events: Events, group: str, topics: list[str], *, limit: int, quiet: float = QUIET
) -> list[dict[str, str]]:
    """Return the headers of a group's dead letters, which stay where they are.

    Args:
        events: the connection.
        group: whose dead letters.
        topics: that the messages were published to.
        limit: how many at most.
        quiet: seconds without a dead letter after which there are none left.
    """
    await events.broker.open()
    source = events.broker.source([dead_topic(topic, group) for topic in topics], redriver(group))
    await source.open()
    found: list[Message] = []
    last = time.monotonic()
    try:
        while len(found) < limit and time.monotonic() - last < quiet:
            fetched = await source.fetch(limit - len(found))
            if fetched:
                last = time.monotonic()
                found += [delivery.message for delivery in fetched]
    finally:
        await source.settle()
        await source.close()
    return [{name: (value or b"").decode(errors="replace") for name, value in message.headers} for message in found]


async def _move(events: Events, group: str, deliveries: list[Delivery], kind: str, run: str) -> int:
    wanted = [not kind or note(delivery.message, "ce_type") == kind for delivery in deliveries]
    messages: list[Message] = [
        revived(delivery.message, group) if moves else seen(delivery.message, run)
        for delivery, moves in zip(deliveries, wanted, strict=True)
    ]
    await events.forward(messages)
    for delivery in deliveries:
        delivery.lease.finished.append(delivery.position)
    return sum(wanted)
