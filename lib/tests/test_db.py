"""The database's unit of work, on SQLite in memory, in a file, and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import Depends, FastAPI
from marty_lib import (
    App,
    Base,
    Conflict,
    Database,
    DatabaseSettings,
    OpsSettings,
    ServiceSettings,
    Unavailable,
    _db_engine,
    create_api,
)
from marty_lib.db import Contention, found, keyset, unique_as
from marty_lib.settings import HttpSettings, SecretUrl
from sqlalchemy import ForeignKey, String, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

START = datetime(2026, 1, 1, tzinfo=UTC)


class Thing(Base):
    __tablename__ = "things"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    at: Mapped[datetime] = mapped_column(default=START)
    version: Mapped[int] = mapped_column(default=1)
    parent: Mapped[UUID | None] = mapped_column(ForeignKey("things.id", deferrable=True, initially="DEFERRED"))


@pytest.fixture(params=["memory", "file", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'things.sqlite'}"


async def open_database(url: str, **settings: Any) -> Database:
    database = Database(DatabaseSettings(url=SecretUrl(url), **settings))
    await database.start()
    return database


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """A database that holds the table of things."""
    database = await open_database(url)
    async with database.engine.begin() as connection:
        await connection.run_sync(Thing.metadata.create_all, tables=[Thing.metadata.tables["things"]])
    yield database
    await database.stop()


async def add(database: Database, *names: str, fail: bool = False) -> None:
    """Add things in one transaction, which then fails if it shall."""
    async with database.transaction() as session:
        for name in names:
            await session.execute(insert(Thing).values(name=name))
        if fail:
            raise ZeroDivisionError


async def names(database: Database) -> list[str]:
    async with database.transaction() as session:
        return list(await session.scalars(select(Thing.name).order_by(Thing.name)))


async def test_what_a_transaction_writes_is_kept(database: Database) -> None:
    async with database.transaction() as session:
        session.add(Thing(name="a"))

    assert await names(database) == ["a"]


async def test_an_exception_undoes_the_transaction_and_goes_on(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await add(database, "a", fail=True)

    assert await names(database) == []


async def test_the_session_is_that_of_the_transaction_under_way(database: Database) -> None:
    async with database.transaction() as session:
        assert database.session is session


async def test_without_a_transaction_there_is_no_session(database: Database) -> None:
    async with database.transaction():
        pass
    with pytest.raises(RuntimeError, match=r"database\.transaction"):
        database.session  # noqa: B018


async def test_a_transaction_inside_of_another_is_a_part_of_it(database: Database) -> None:
    async def outer() -> None:
        async with database.transaction() as session:
            async with database.transaction() as inner:
                assert inner is session
            await add(database, "a")
            assert database.session is session
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await outer()
    assert await names(database) == []


async def test_a_task_made_in_a_transaction_begins_its_own(database: Database) -> None:
    async with database.transaction() as outer:

        async def other() -> None:
            with pytest.raises(RuntimeError):
                database.session  # noqa: B018
            async with database.transaction() as session:
                assert session is not outer

        await asyncio.create_task(other())


async def test_transactions_at_once_do_not_see_each_other(database: Database) -> None:
    work = (add(database, f"{number:02}", f"{number:02}b", fail=number % 2 == 1) for number in range(20))
    await asyncio.gather(*work, return_exceptions=True)

    assert await names(database) == [f"{number:02}{part}" for number in range(0, 20, 2) for part in ("", "b")]


async def test_a_transaction_cannot_be_committed_after_a_swallowed_failure(database: Database) -> None:
    async def swallow() -> None:
        async with database.transaction():
            await add(database, "b")
            with pytest.raises(IntegrityError):
                await add(database, "a")

    await add(database, "a")
    with pytest.raises(RuntimeError, match="cannot be committed"):
        await swallow()
    assert await names(database) == ["a"]


async def test_a_failure_in_a_savepoint_leaves_the_transaction_whole(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(insert(Thing).values(name="a"))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await session.execute(insert(Thing).values(name="a"))

    assert await names(database) == ["a"]


async def test_a_broken_unique_constraint_is_what_the_adapter_says(database: Database) -> None:
    await add(database, "a")
    with pytest.raises(Conflict, match="taken"), unique_as(Conflict("The name is taken.")):
        await add(database, "a")


async def test_another_broken_constraint_is_not_taken_for_a_unique_one(database: Database) -> None:
    async with database.transaction() as session:
        with pytest.raises(IntegrityError), unique_as(Conflict("The name is taken.")):
            async with session.begin_nested():
                await session.execute(insert(Thing).values(name=None))


async def test_a_commit_that_fails_is_an_error_and_keeps_nothing(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as session:
            await session.execute(insert(Thing).values(name="orphan", parent=uuid4()))

    assert await names(database) == []


async def test_a_moment_comes_back_in_utc(database: Database) -> None:
    moment = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    async with database.transaction() as session:
        await session.execute(insert(Thing).values(name="a", at=moment))
        back = await session.scalar(select(Thing.at))

    assert back == moment
    assert back is not None
    assert back.tzinfo is UTC


async def test_a_moment_without_zone_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="has no time zone"):
        async with database.transaction() as session:
            await session.execute(insert(Thing).values(name="a", at=datetime(2026, 3, 1)))  # noqa: DTZ001


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_by_keyset_hold_every_row_once(database: Database, newest_first: bool) -> None:
    placed = [(START + timedelta(seconds=number // 3), UUID(int=number * 7 % 20)) for number in range(20)]
    async with database.transaction() as session:
        await session.execute(insert(Thing), [{"id": key, "name": str(key)[-10:], "at": at} for at, key in placed])
        seen: list[tuple[datetime, UUID]] = []
        while page := (
            await session.execute(
                keyset(
                    select(Thing.at, Thing.id),
                    (Thing.at, Thing.id),
                    after=seen[-1] if seen else None,
                    limit=3,
                    newest_first=newest_first,
                )
            )
        ).all():
            seen += [(row.at, row.id) for row in page]

    assert seen == sorted(placed, reverse=newest_first)


async def test_a_change_of_another_version_finds_nothing(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(insert(Thing).values(name="a"))
        assert await found(session, update(Thing).where(Thing.version == 1).values(version=2))
        assert not await found(session, update(Thing).where(Thing.version == 1).values(version=2))
        assert not await found(session, delete(Thing).where(Thing.version == 1))


async def test_a_unit_of_work_is_run_again_when_others_are_in_its_way(database: Database) -> None:
    attempts = []

    async def work() -> str:
        attempts.append(database.session)
        await database.session.execute(insert(Thing).values(name=str(len(attempts))))
        if len(attempts) < 3:
            raise Contention("Others work on the same data.")
        return "done"

    assert await database.retry(work) == "done"
    assert await names(database) == ["3"]


async def test_the_last_attempt_of_a_unit_of_work_tells_why(database: Database) -> None:
    async def work() -> None:
        raise Contention("Others work on the same data.")

    with pytest.raises(Contention):
        await database.retry(work, attempts=2)


async def test_a_part_of_a_transaction_is_not_run_again(database: Database) -> None:
    async def work() -> None:
        raise AssertionError("it was run")

    with pytest.raises(RuntimeError, match="outside"):
        async with database.transaction():
            await database.retry(work)


async def test_work_that_gets_no_connection_is_told_to_come_back(url: str) -> None:
    database = await open_database(url, pool_size=1, pool_overflow=0, pool_timeout=0.05)
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))

        async def other() -> None:
            async with database.transaction() as session:
                await session.execute(text("SELECT 1"))

        with pytest.raises(Unavailable) as refused:
            await asyncio.create_task(other())

    assert refused.value.headers == {"Retry-After": "1"}
    await database.check()
    await database.stop()


async def test_transactions_of_sqlite_get_their_turn_in_the_order_in_which_they_asked() -> None:
    database = await open_database("sqlite://", pool_size=10)
    order: list[int] = []

    async def work(number: int, connection: AsyncConnection) -> None:
        async with connection.begin():
            order.append(number)
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as opened, asyncio.TaskGroup() as group:
        connections = [await opened.enter_async_context(database.engine.connect()) for _ in range(10)]
        for number, connection in enumerate(connections):
            group.create_task(work(number, connection))
    await database.stop()

    assert order == list(range(10))


async def test_a_cancelled_transaction_gives_its_connection_back(database: Database) -> None:
    async def forever() -> None:
        async with database.transaction() as session:
            await session.execute(insert(Thing).values(name="a"))
            began.set()
            await asyncio.Event().wait()

    began = asyncio.Event()
    task = asyncio.create_task(forever())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await names(database) == []


@pytest.fixture
async def api(database: Database) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an API whose requests are units of work."""
    app = App(ServiceSettings(ops=OpsSettings(port=0)), name="things", version="1")
    api: FastAPI = create_api(app, HttpSettings(request_timeout=0.5))
    unit_of_work = [Depends(database.unit_of_work, scope="function")]

    @api.post("/things/{name}", dependencies=unit_of_work)
    async def add(name: str, parent: UUID | None = None) -> dict[str, str]:
        database.session.add(Thing(name=name, parent=parent))
        return {"name": name}

    @api.post("/slow", dependencies=unit_of_work)
    async def slow() -> None:
        database.session.add(Thing(name="slow"))
        await database.session.flush()
        await asyncio.Event().wait()

    @api.post("/refused/{name}", dependencies=unit_of_work)
    async def refused(name: str) -> None:
        database.session.add(Thing(name=name))
        await database.session.flush()
        raise Conflict("No.")

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api, False), base_url="http://things") as client:
        yield client


async def test_an_answered_request_is_committed(api: httpx2.AsyncClient, database: Database) -> None:
    assert (await api.post("/things/a")).status_code == 200
    assert await names(database) == ["a"]


async def test_a_refused_request_keeps_nothing(api: httpx2.AsyncClient, database: Database) -> None:
    assert (await api.post("/refused/a")).status_code == 409
    assert await names(database) == []


async def test_a_commit_that_fails_is_a_500(api: httpx2.AsyncClient, database: Database) -> None:
    response = await api.post("/things/a", params={"parent": str(uuid4())})

    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert await names(database) == []


async def test_a_request_whose_time_is_over_keeps_nothing_and_gives_its_connection_back(
    api: httpx2.AsyncClient, database: Database
) -> None:
    assert (await api.post("/slow")).status_code == 504
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert (await api.post("/things/a")).status_code == 200
    assert await names(database) == ["a"]


async def test_the_pool_is_closed_after_all_that_uses_it(url: str) -> None:
    class Flusher:
        name = "flusher"
        flushed = 0

        async def start(self) -> None: ...

        async def stop(self) -> None:
            async with used.transaction() as session:
                self.flushed = await session.scalar(text("SELECT 1")) or 0

    app = App(ServiceSettings(ops=OpsSettings(port=0)), name="things", version="1")
    used = app.add(Database(DatabaseSettings(url=SecretUrl(url))))
    flusher = app.add(Flusher())
    await app.start()

    assert await app.stop(delay=0)
    assert flusher.flushed == 1
    assert used.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


async def test_a_statement_that_was_cut_off_has_ended_when_the_database_is_closed(tmp_path: Path) -> None:
    database = await open_database(f"sqlite:///{tmp_path / 'things.sqlite'}")
    slow = """WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 1000000)
    SELECT count(*) FROM numbers"""
    connection = await database.engine.connect()
    counting = asyncio.create_task(connection.execute(text(slow)))
    await asyncio.sleep(0)
    counting.cancel()
    assert _db_engine.running(database.engine)
    await database.stop()

    assert not _db_engine.running(database.engine)
