"""Outbox and inbox: events that are published if and only if a change is committed, and handled as if they came once.

    outbox, inbox = Outbox(database), Inbox(database, "order-service")
    app.add(Relay(database, events))

    async with database.transaction() as session:
        ...                                     # the change
        await outbox.add(PLACED.event(...))     # after it, in the same transaction

    @consumer.on(PLACED)
    async def placed(event: Event, order: OrderPlaced) -> None:
        async with database.transaction():
            if await inbox.once(event):
                ...                             # the effect

Importing this module adds the tables `outbox` and `inbox` to `marty_lib.db.Base`: migrate them as the service's own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, event, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from marty_lib._events_wire import LARGEST, Event, Message, encode
from marty_lib._outbox_tables import InboxRow as InboxRow
from marty_lib._outbox_tables import OutboxRow as OutboxRow
from marty_lib._relay import Relay as Relay
from marty_lib._relay import nudge
from marty_lib.db import Database
from marty_lib.errors import PayloadTooLarge


class Outbox:
    """Where events wait for the relay.

    Args:
        database: of the changes that the events are about.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, *events: Event) -> None:
        """Have events published if the transaction under way commits.

        Add them after the change: what changes the same rows then waits for this transaction, and its events come
        after these.

        Raises:
            RuntimeError: outside of a transaction.
            PayloadTooLarge: where a broker would refuse an event.
        """
        session = self._database.session
        await session.flush()
        await session.execute(insert(OutboxRow), [_row(encode(added)) for added in events])
        event.listen(session.sync_session, "after_commit", _committed, once=True)


def _committed(session: Session) -> None:
    nudge()


def _row(message: Message) -> dict[str, object]:
    if len(message.value) > LARGEST:
        raise PayloadTooLarge(f"An event may have {LARGEST} bytes at most.")
    headers = json.dumps([(name, value.decode()) for name, value in message.headers])
    return {
        "topic": message.topic,
        "key": message.key,
        "headers": headers,
        "value": message.value,
        "added_at": datetime.now(UTC),
    }


class Inbox:
    """What a group has handled.

    Args:
        database: of the effects.
        group: of the consumer.
    """

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._group = group

    async def once(self, received: Event) -> bool:
        """Return whether this is the first time, and remember it if the transaction under way commits.

        Where another transaction is handling the same event, this waits for its end.

        Raises:
            RuntimeError: outside of a transaction.
        """
        session = self._database.session
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        statement = dialect.insert(InboxRow).values(
            group=self._group, source=received.source, event_id=received.id, handled_at=datetime.now(UTC)
        )
        result = await session.execute(statement.on_conflict_do_nothing())
        assert isinstance(result, CursorResult)
        return result.rowcount == 1

    async def forget(self, age: timedelta = timedelta(days=7)) -> None:
        """Forget what was handled longer ago than any broker delivers again."""
        async with self._database.transaction() as session:
            await session.execute(delete(InboxRow).where(InboxRow.handled_at < datetime.now(UTC) - age))
