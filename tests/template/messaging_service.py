"""A service of outbox, relay, consumer and inbox, as `app.py` composes them, for the tests that kill it.

What it has handled it writes into a table, in order. ROLE says which of its parts it has.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from marty_lib import (
    App,
    Consumer,
    Database,
    DatabaseSettings,
    Event,
    Events,
    EventsSettings,
    EventType,
    ServiceSettings,
    log,
    main,
)
from marty_lib.db import Base
from marty_lib.outbox import Inbox, Relay
from pydantic import BaseModel
from sqlalchemy import insert
from sqlalchemy.orm import Mapped, mapped_column

GROUP = "orders"


class Placed(BaseModel):
    """An order was placed."""

    number: int


PLACED = EventType("order.placed", Placed, topic="orders.order.v1", source="orders")


class HandledRow(Base):
    """One effect."""

    __tablename__ = "handled"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    number: Mapped[int]


class Settings(ServiceSettings):
    """What the processes share."""

    database: DatabaseSettings = DatabaseSettings()
    events: EventsSettings = EventsSettings()


def create_app(settings: Settings) -> App:
    """Return the parts that ROLE names."""
    role = os.environ["ROLE"]
    app = App(settings, name="orders", version="1")
    database = app.add(Database(settings.database))
    events = app.add(Events(settings.events, publishes=[PLACED]))
    if "consumer" in role:
        app.add(consumer_of(database, events))
    if "relay" in role:
        app.add(Relay(database, events, batch=100))
    return app


def consumer_of(database: Database, events: Events) -> Consumer:
    """Return the consumer: it keeps what it handles, and waits where HOLD names a file until that exists."""
    consumer = Consumer(events, group=GROUP)
    inbox = Inbox(database, GROUP)
    hold = os.environ.get("HOLD", "")

    @consumer.on(PLACED)
    async def placed(event: Event, order: Placed) -> None:
        if hold:
            log.get().warning("handler.began")
            while not Path(hold).exists():  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
        async with database.transaction() as session:
            if await inbox.once(event):
                effect: dict[str, Any] = {"key": event.key, "number": order.number}
                await session.execute(insert(HandledRow).values(effect))

    return consumer


if __name__ == "__main__":
    main(Settings, create_app)
