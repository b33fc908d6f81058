"""Outbox and inbox on SQLite and PostgreSQL: nothing is lost, nothing is told that was not committed, order is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from marty_lib import DatabaseSettings, PayloadTooLarge, _relay, context
from marty_lib._events_wire import Message
from marty_lib.db import Base, Database
from marty_lib.events import Events, EventsSettings
from marty_lib.outbox import Inbox, InboxRow, Outbox, OutboxRow, Relay
from marty_lib.settings import SecretUrl
from prometheus_client import REGISTRY
from sqlalchemy import func, select, update

from .event_kit import Kit, kit_of, until

TABLES = [Base.metadata.tables["outbox"], Base.metadata.tables["inbox"]]


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with kit_of("memory://", "outbox-") as found:
        yield found


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'events.sqlite'}"
    else:
        url = request.getfixturevalue("postgresql_url")
    database = Database(DatabaseSettings(url=SecretUrl(url)))
    await database.start()
    async with database.engine.begin() as connection:
        await connection.run_sync(lambda sync: Base.metadata.create_all(sync, tables=TABLES))
    yield database
    await database.stop()


class Recorder(Events):
    """A connection that keeps what is sent, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(EventsSettings())
        self.sent: list[Message] = []
        self.away = self.waiting = False
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def check(self) -> None:
        if self.away:
            raise ConnectionError("the broker is away")

    async def send(self, messages: Sequence[Message]) -> None:
        await self.check()
        self.waiting = True
        await self.may_send.wait()
        self.sent += messages

    @property
    def numbers(self) -> list[int]:
        return [int(message.value.decode().removeprefix('{"number":').removesuffix("}")) for message in self.sent]


@pytest.fixture
def broker() -> Recorder:
    return Recorder()


async def add(database: Database, kit: Kit, *numbers: int, key: str = "ada") -> None:
    async with database.transaction():
        await Outbox(database).add(*(kit.event(number, key=key) for number in numbers))


async def rolled_back(database: Database, work: Awaitable[object]) -> None:
    with contextlib.suppress(ValueError):
        async with database.transaction():
            await work
            raise ValueError("changed my mind")


async def count(database: Database, *conditions: Any) -> int:
    async with database.transaction() as session:
        return await session.scalar(select(func.count()).select_from(OutboxRow).where(*conditions)) or 0


async def test_events_of_a_transaction_that_commits_are_published_in_order(
    database: Database, kit: Kit, broker: Recorder
) -> None:
    relay = Relay(database, broker, batch=3)
    await add(database, kit, *range(10))
    await relay.start()
    await add(database, kit, *range(10, 20))
    await until(lambda: len(broker.sent) == 20)
    await relay.drain()

    assert broker.numbers == list(range(20))
    assert await count(database, OutboxRow.sent_at.is_(None)) == 0


async def test_events_of_a_transaction_that_rolls_back_are_never_published(
    database: Database, kit: Kit, broker: Recorder
) -> None:
    await rolled_back(database, Outbox(database).add(kit.event(1)))
    await add(database, kit, 2)
    relay = Relay(database, broker)
    await relay.start()
    await until(lambda: broker.sent)
    await relay.drain()

    assert broker.numbers == [2]


async def test_the_whole_envelope_goes_through_the_outbox(
    database: Database, kit: Kit, broker: Recorder, request_context: context.RequestContext
) -> None:
    from marty_lib._events_wire import decode

    event = kit.event(1)
    async with database.transaction():
        await Outbox(database).add(event)
    relay = Relay(database, broker)
    await relay.start()
    await relay.drain()

    assert [decode(message) for message in broker.sent] == [event]
    assert event.correlation_id == request_context.request_id


async def test_an_event_that_is_committed_after_later_ones_is_published_too(
    postgresql_url: str, kit: Kit, broker: Recorder
) -> None:
    database = Database(DatabaseSettings(url=SecretUrl(postgresql_url)))
    await database.start()
    async with database.engine.begin() as connection:
        await connection.run_sync(lambda sync: Base.metadata.create_all(sync, tables=TABLES))
    relay = Relay(database, broker)
    await relay.start()
    added, commit = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with database.transaction():
            await Outbox(database).add(kit.event(1, key="slow"))
            added.set()
            await commit.wait()

    slow_one = asyncio.create_task(slow())
    await added.wait()
    await add(database, kit, 2)
    await until(lambda: broker.numbers == [2])
    commit.set()
    await slow_one
    await until(lambda: broker.numbers == [2, 1])
    await relay.drain()
    await database.stop()


async def test_two_relays_at_once_lose_nothing_and_keep_the_order(
    database: Database, kit: Kit, broker: Recorder
) -> None:
    relays = [Relay(database, broker, batch=7) for _ in range(2)]
    for relay in relays:
        await relay.start()
    for first in range(0, 200, 10):
        await add(database, kit, *range(first, first + 10))
    await until(lambda: len(broker.sent) >= 200)
    for relay in relays:
        await relay.drain()

    assert broker.numbers == list(range(200))


async def test_only_one_relay_works_at_a_time(postgresql_url: str, kit: Kit, broker: Recorder) -> None:
    databases = [Database(DatabaseSettings(url=SecretUrl(postgresql_url))) for _ in range(2)]
    for database in databases:
        await database.start()
    async with databases[0].engine.begin() as connection:
        await connection.run_sync(lambda sync: Base.metadata.create_all(sync, tables=TABLES))
    await add(databases[0], kit, 1)
    broker.may_send.clear()
    first, second = (Relay(database, broker) for database in databases)
    working = asyncio.create_task(first._publish())
    await until(lambda: broker.waiting)
    other = await second._publish()
    broker.may_send.set()

    assert (other, await working) == (0, 1)
    for database in databases:
        await database.stop()


async def test_what_was_not_published_is_tried_again_when_the_broker_is_back(
    database: Database, kit: Kit, broker: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_relay, "IDLE", 0.01)
    monkeypatch.setattr(_relay, "LONGEST_PAUSE", 0.02)
    relay = Relay(database, broker)
    broker.away = True
    await add(database, kit, 1, 2)
    await relay.start()
    await until(lambda: relay._failures > 2)
    broker.away = False
    await until(lambda: broker.sent)
    await relay.drain()

    assert broker.numbers == [1, 2]


async def test_pending_events_and_their_age_are_measured_while_the_broker_is_away(
    database: Database, kit: Kit, broker: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_relay, "MEASURE_EVERY", 0)
    monkeypatch.setattr(_relay, "IDLE", 0.01)
    monkeypatch.setattr(_relay, "LONGEST_PAUSE", 0.02)
    await add(database, kit, 1, 2, 3)
    async with database.transaction() as session:
        await session.execute(update(OutboxRow).values(added_at=datetime.now(UTC) - timedelta(hours=1)))
    broker.away = True
    relay = Relay(database, broker)
    await relay.start()
    await until(lambda: REGISTRY.get_sample_value("outbox_pending") == 3)
    assert (REGISTRY.get_sample_value("outbox_oldest_seconds") or 0) >= 3600

    broker.away = False
    await until(lambda: REGISTRY.get_sample_value("outbox_pending") == 0)
    assert REGISTRY.get_sample_value("outbox_oldest_seconds") == 0
    await relay.drain()


async def test_what_was_sent_is_forgotten_after_a_while_and_what_is_pending_never(
    database: Database, kit: Kit, broker: Recorder
) -> None:
    await add(database, kit, 1, 2, 3)
    long_ago = datetime.now(UTC) - timedelta(days=2)
    async with database.transaction() as session:
        await session.execute(update(OutboxRow).values(added_at=long_ago))
        await session.execute(update(OutboxRow).where(OutboxRow.id < 3).values(sent_at=long_ago))
    await Relay(database, broker, keep=timedelta(days=1))._clean()

    assert await count(database) == await count(database, OutboxRow.sent_at.is_(None)) == 1


async def test_draining_publishes_what_is_there(database: Database, kit: Kit, broker: Recorder) -> None:
    relay = Relay(database, broker, batch=2)
    await relay.start()
    await until(lambda: not relay._wake.is_set())
    await add(database, kit, *range(9))
    await relay.drain()

    assert broker.numbers == list(range(9))


async def test_an_event_that_no_broker_takes_is_refused_where_it_is_made(database: Database, kit: Kit) -> None:
    huge = kit.event(1)._replace(data=b" " * 1_000_000)

    async with database.transaction():
        with pytest.raises(PayloadTooLarge):
            await Outbox(database).add(huge)


async def test_an_event_outside_of_a_transaction_is_refused(database: Database, kit: Kit) -> None:
    with pytest.raises(RuntimeError, match="no transaction is under way"):
        await Outbox(database).add(kit.event(1))


async def test_an_event_is_handled_once(database: Database, kit: Kit) -> None:
    inbox, event = Inbox(database, "orders"), kit.event(1)
    seen = []
    for _ in range(2):
        async with database.transaction():
            seen.append(await inbox.once(event))

    assert seen == [True, False]


async def test_an_event_whose_effect_was_rolled_back_is_handled_again(database: Database, kit: Kit) -> None:
    inbox, event = Inbox(database, "orders"), kit.event(1)
    await rolled_back(database, inbox.once(event))

    async with database.transaction():
        assert await inbox.once(event)


async def test_each_group_and_each_source_has_events_of_its_own(database: Database, kit: Kit) -> None:
    event = kit.event(1)

    async with database.transaction():
        assert await Inbox(database, "orders").once(event)
        assert await Inbox(database, "shipping").once(event)
        assert await Inbox(database, "orders").once(event._replace(source="elsewhere"))


async def test_two_who_handle_one_event_at_the_same_time_have_one_effect(database: Database, kit: Kit) -> None:
    inbox, event = Inbox(database, "orders"), kit.event(1)

    async def handle() -> bool:
        async with database.transaction():
            first = await inbox.once(event)
            await asyncio.sleep(0.01)
            return first

    assert sorted(await asyncio.gather(*(handle() for _ in range(4)))) == [False, False, False, True]


async def test_what_was_handled_long_ago_is_forgotten(database: Database, kit: Kit) -> None:
    inbox, old, new = Inbox(database, "orders"), kit.event(1), kit.event(2)
    async with database.transaction() as session:
        await inbox.once(old)
        await session.execute(update(InboxRow).values(handled_at=datetime.now(UTC) - timedelta(days=8)))
        await inbox.once(new)
    await inbox.forget()

    async with database.transaction():
        assert (await inbox.once(old), await inbox.once(new)) == (True, False)
