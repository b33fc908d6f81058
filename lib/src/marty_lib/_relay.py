"""The relay: publishes what is in the outbox, in order, and forgets it later.

One relay works at a time, however many there are: on PostgreSQL under an advisory lock that ends with the batch's
transaction, on SQLite under the write lock. It asks for what is not sent, never for what is newer than something: ids
are taken before transactions commit, so a lower one may turn up later.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import weakref
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Gauge
from sqlalchemy import delete, func, select, text, update

from marty_lib import context, log
from marty_lib._broker import wanted
from marty_lib._events_wire import Message
from marty_lib._outbox_tables import OutboxRow
from marty_lib.db import Database

if TYPE_CHECKING:
    from marty_lib.events import Events

PENDING = Gauge("outbox_pending", "Events in the outbox that are not yet published.")
OLDEST = Gauge("outbox_oldest_seconds", "Age of the oldest event that is not yet published, in seconds.")
SENT = Counter("outbox_sent", "Events that the relay has published.")

# "marty outbox", as PostgreSQL's advisory locks are numbers.
LOCK = 0x6D6172_6F7574
IDLE = 0.5
LONGEST_PAUSE = 5.0
MEASURE_EVERY = 5.0
CLEAN_EVERY = 60.0

_relays: weakref.WeakSet[Relay] = weakref.WeakSet()


class Relay:
    """The component that publishes what the outbox holds.

    It drains after the servers, so that what their last requests have added is published too.

    Args:
        database: of the outbox.
        events: the connection to the broker.
        batch: events that are published at once.
        keep: for how long what was sent can be looked at.
    """

    drain_phase = 2

    def __init__(
        self, database: Database, events: Events, *, batch: int = 500, keep: timedelta = timedelta(hours=1)
    ) -> None:
        self.name = "outbox"
        self._database = database
        self._events = events
        self._batch = batch
        self._keep = keep
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures = 0
        self._measured = self._cleaned = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to publish."""
        _relays.add(self)
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def wait(self) -> None:
        """Return when it has ended."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def drain(self) -> None:
        """Publish what is there, and no more."""
        self._stopping.set()
        self._wake.set()
        await self.wait()

    async def stop(self) -> None:
        """End; what is not published stays in the outbox."""
        _relays.discard(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    async def _run(self) -> None:
        while wanted():
            self._wake.clear()
            more = await self._try()
            if self._stopping.is_set() and not more:
                return
            if not more:
                await self._rest()

    async def _rest(self) -> None:
        seconds = min(LONGEST_PAUSE, IDLE * 2.0 ** min(self._failures, 8)) * random.uniform(0.8, 1.2)
        try:
            async with asyncio.timeout(seconds):
                # New events do not bring back what is away.
                await (self._stopping if self._failures else self._wake).wait()
        except TimeoutError:
            return

    async def _try(self) -> bool:
        """Publish a batch; return whether there may be more."""
        try:
            with context.use(context.new()):
                await self._look_after()
                if self._failures:
                    # Transactions do not wait for a broker that is known to be away.
                    await self._events.check()
                sent = await self._publish()
        except Exception as error:
            self._failures += 1
            log.get().warning("outbox.not_published", reason=type(error).__name__, failures=self._failures)
            return False
        self._failures = 0
        return sent == self._batch

    async def _publish(self) -> int:
        async with self._database.transaction() as session:
            if not await self._is_alone():
                return 0
            columns = (OutboxRow.id, OutboxRow.topic, OutboxRow.key, OutboxRow.headers, OutboxRow.value)
            pending = select(*columns).where(OutboxRow.sent_at.is_(None)).order_by(OutboxRow.id).limit(self._batch)
            rows = (await session.execute(pending)).all()
            if rows:
                await self._events.send(_messages(rows))
                sent = [row.id for row in rows]
                await session.execute(
                    update(OutboxRow).where(OutboxRow.id.in_(sent)).values(sent_at=datetime.now(UTC)),
                    execution_options={"synchronize_session": False},
                )
        SENT.inc(len(rows))
        return len(rows)

    async def _is_alone(self) -> bool:
        """Have no other relay work until the transaction ends; SQLite lets nobody else write as it is."""
        session = self._database.session
        if session.get_bind().dialect.name == "sqlite":
            return True
        locked = await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK})
        return bool(locked)

    async def _look_after(self) -> None:
        now = time.monotonic()
        if now - self._measured >= MEASURE_EVERY:
            self._measured = now
            await self._measure()
        if now - self._cleaned >= CLEAN_EVERY:
            self._cleaned = now
            await self._clean()

    async def _measure(self) -> None:
        async with self._database.transaction() as session:
            pending = select(func.count(), func.min(OutboxRow.added_at)).where(OutboxRow.sent_at.is_(None))
            count, oldest = (await session.execute(pending)).one()
        PENDING.set(count)
        OLDEST.set((datetime.now(UTC) - oldest).total_seconds() if oldest else 0)

    async def _clean(self) -> None:
        async with self._database.transaction() as session:
            await session.execute(
                delete(OutboxRow).where(OutboxRow.sent_at < datetime.now(UTC) - self._keep),
                execution_options={"synchronize_session": False},
            )


def nudge() -> None:
    """Have the relays of this process look at once."""
    for relay in list(_relays):
        relay.wake()


def _messages(rows: Sequence[Any]) -> list[Message]:
    return [
        Message(row.topic, row.key, row.value, [(name, value.encode()) for name, value in json.loads(row.headers)])
        for row in rows
    ]
