"""PostgreSQL as tests get it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.servers.postgresql import CONNECT, fresh_database
from tests.servers.server import Server

GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), **CONNECT)
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.mark.parametrize("_", range(2))
async def test_each_test_gets_an_empty_database(postgresql_url: str, _: int) -> None:
    async with connected(postgresql_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        await connection.execute("CREATE TABLE orders (id int)")


async def test_a_database_is_dropped_whoever_is_connected(session_postgresql: str) -> None:
    with fresh_database(session_postgresql) as url:
        leftover = await asyncpg.connect(url.replace("+asyncpg", ""), **CONNECT)
    with pytest.raises(GONE):
        await leftover.fetchval("SELECT 1")
    leftover.terminate()


async def test_a_wrong_password_is_refused(postgresql_url: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        async with connected(postgresql_url.replace(":marty@", ":wrong@")):
            pass


async def test_it_comes_back_from_a_kill_with_what_was_committed(postgresql_server: Server) -> None:
    async with connected(postgresql_server.url) as connection:
        await connection.execute("CREATE TABLE orders AS SELECT 42 AS id")

        postgresql_server.kill()
        with pytest.raises(GONE):
            await connection.fetchval("SELECT 1")
        with pytest.raises(GONE):
            async with connected(postgresql_server.url):
                pass

    postgresql_server.start()
    async with connected(postgresql_server.url) as connection:
        assert await connection.fetchval("SELECT id FROM orders") == 42


async def test_a_paused_one_answers_once_it_goes_on(postgresql_server: Server) -> None:
    async with connected(postgresql_server.url) as connection:
        postgresql_server.pause()
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT 1", timeout=0.2)

    postgresql_server.resume()
    async with connected(postgresql_server.url) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_it_stops_in_order_and_starts_again(postgresql_server: Server) -> None:
    postgresql_server.stop()
    assert "database system is shut down" in postgresql_server.log()

    async with connected(postgresql_server.start().url) as connection:
        assert await connection.fetchval("SELECT 1") == 1
