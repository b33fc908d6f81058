"""A real PostgreSQL that is slow, contended, gone or silent: what callers are told, and that work then goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from marty_lib import Database, DatabaseSettings, DeadlineExceeded, Unavailable
from marty_lib.db import Contention
from marty_lib.settings import SecretUrl
from prometheus_client import REGISTRY
from sqlalchemy import event, text

from tests.servers.server import Server

from .conftest import Logs

Open = Callable[..., Awaitable[Database]]
Soon = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """A function that opens a database by URL; it is closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_database(url: str, **settings: Any) -> Database:
            database = Database(DatabaseSettings(url=SecretUrl(url), **settings))
            await database.start()
            stack.push_async_callback(database.stop)
            return database

        yield open_database


async def execute(database: Database, *statements: str) -> Any:
    """Execute statements in one transaction; return the last one's first value, if it has any."""
    async with database.transaction() as session:
        for statement in statements:
            result = await session.execute(text(statement))
        return result.scalar() if result.returns_rows else None  # type: ignore[attr-defined]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url, statement_timeout=0.1)

    with pytest.raises(DeadlineExceeded):
        await execute(database, "SELECT pg_sleep(30)")
    assert await execute(database, "SELECT 1") == 1


async def test_a_lock_that_another_holds_is_contention(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url, lock_timeout=0.1)
    await execute(database, "CREATE TABLE numbers (n int)")
    async with database.transaction() as session:
        await session.execute(text("LOCK TABLE numbers"))
        with pytest.raises(Contention) as refused:
            await asyncio.create_task(execute(database, "SELECT * FROM numbers"))

    assert refused.value.headers == {"Retry-After": "1"}


async def test_of_two_in_a_deadlock_one_is_run_again(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url)
    await execute(
        database, "CREATE TABLE numbers (n int PRIMARY KEY, m int)", "INSERT INTO numbers VALUES (1, 0), (2, 0)"
    )
    both = asyncio.Barrier(2)
    runs = []

    def work(*order: int) -> Callable[[], Awaitable[None]]:
        async def change() -> None:
            runs.append(order)
            for number in order:
                await database.session.execute(text("UPDATE numbers SET m = m + 1 WHERE n = :n"), {"n": number})
                if len(runs) <= 2 and number == order[0]:
                    await both.wait()

        return change

    await asyncio.gather(database.retry(work(1, 2)), database.retry(work(2, 1)))

    assert len(runs) == 3
    assert await execute(database, "SELECT sum(m) FROM numbers") == 4


async def test_a_cancelled_statement_ends_on_the_server_too(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url)
    running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(31)' AND state = 'active'"
    task = asyncio.create_task(execute(database, "SELECT pg_sleep(31)"))
    async with asyncio.timeout(20):
        while not await execute(database, running):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while await execute(database, running):
            pass

    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_killed_server_is_unavailable_until_it_is_back(
    opened: Open, postgresql_server: Server, logs: Logs
) -> None:
    database = await opened(postgresql_server.url)
    await asyncio.gather(*(execute(database, "SELECT pg_sleep(0.05)") for _ in range(5)))
    await asyncio.to_thread(postgresql_server.kill)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await execute(database, "SELECT 1")
    with pytest.raises(Unavailable):
        await database.check()
    await asyncio.to_thread(postgresql_server.start)

    # Not one more is lost: no dead connection is handed out.
    results = await asyncio.gather(*(execute(database, "SELECT 1") for _ in range(20)))
    assert results == [1] * 20
    assert [line["event"] for line in logs.lines].count("database.unreachable") <= 2
    assert "database.reachable" in logs.text
    assert ":marty@" not in logs.text


async def test_a_connection_that_is_cut_in_a_transaction_is_unavailable(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url)
    other = await opened(postgresql_url)

    async def cut() -> None:
        async with database.transaction() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            await asyncio.create_task(execute(other, f"SELECT pg_terminate_backend({pid})"))
            await session.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await cut()
    assert await execute(database, "SELECT 1") == 1


async def test_a_commit_whose_answer_is_lost_says_that_nobody_knows(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url)
    other = await opened(postgresql_url)

    async def cut() -> None:
        async with database.transaction() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            await asyncio.create_task(execute(other, f"SELECT pg_terminate_backend({pid})"))

    with pytest.raises(Unavailable, match="not known whether") as unknown:
        await cut()
    assert unknown.value.headers == {}


async def test_a_server_that_hangs_is_unavailable_and_the_work_goes_on_when_it_wakes(
    opened: Open, postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marty_lib._db_engine.GRACE", 0.1)
    database = await opened(postgresql_server.url, statement_timeout=0.3, connect_timeout=0.3)
    await execute(database, "SELECT 1")
    postgresql_server.pause()
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await execute(database, "SELECT 1")
    finally:
        postgresql_server.resume()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                assert await execute(database, "SELECT 1") == 1
                break


async def test_after_a_failover_the_old_connection_is_given_up(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url, pool_size=1, pool_overflow=0)
    await execute(database, "CREATE TABLE numbers (n int)")
    pid = await execute(database, "SELECT pg_backend_pid()")
    with pytest.raises(Unavailable):
        await execute(database, "SET TRANSACTION READ ONLY", "INSERT INTO numbers VALUES (1)")

    assert await execute(database, "SELECT pg_backend_pid()") != pid


async def test_a_slow_statement_is_logged_without_its_parameters(opened: Open, postgresql_url: str, logs: Logs) -> None:
    database = await opened(postgresql_url, slow_query=0.05)
    async with database.transaction() as session:
        await session.execute(text("SELECT pg_sleep(0.06),\n  :secret"), {"secret": "hunter2"})
        await session.execute(text("SELECT 1"))

    line = logs.one("database.slow_query")
    assert line["statement"] == "SELECT pg_sleep(0.06), $1"
    assert line["duration_ms"] >= 60
    assert "hunter2" not in logs.text


async def test_statements_and_connections_are_measured(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url, pool_size=2, pool_overflow=1, pool_timeout=0.05)
    selects = metric("db_client_operation_duration_seconds_count", operation="SELECT")
    others = metric("db_client_operation_duration_seconds_count", operation="OTHER")
    waits = metric("db_client_connection_wait_seconds_count")
    timeouts = metric("db_client_connection_timeouts_total")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(database.engine.connect())
        assert metric("db_client_connection_count", state="used") == 3
        with pytest.raises(Unavailable):
            await execute(database, "SELECT 1")
    await execute(database, "SELECT 1", "SHOW timezone")

    assert metric("db_client_connection_max") == 3
    assert metric("db_client_connection_count", state="used") == 0
    assert metric("db_client_connection_count", state="idle") == 2
    assert metric("db_client_connection_wait_seconds_count") == waits + 5
    assert metric("db_client_connection_timeouts_total") == timeouts + 1
    assert metric("db_client_operation_duration_seconds_count", operation="SELECT") == selects + 1
    assert metric("db_client_operation_duration_seconds_count", operation="OTHER") == others + 1


async def test_connections_are_replaced_in_time(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url, pool_recycle=0.001)
    made = []
    event.listen(database.engine.sync_engine, "connect", lambda *_: made.append(1))
    for _ in range(3):
        await execute(database, "SELECT pg_sleep(0.002)")

    assert len(made) > 1


async def test_what_runs_on_the_server_carries_the_limits(opened: Open, postgresql_url: str) -> None:
    database = await opened(postgresql_url, statement_timeout=7, lock_timeout=2, idle_timeout=0)

    assert await execute(database, "SHOW statement_timeout") == "7s"
    assert await execute(database, "SHOW lock_timeout") == "2s"
    assert await execute(database, "SHOW idle_in_transaction_session_timeout") == "0"
    assert await execute(database, "SHOW timezone") == "UTC"
