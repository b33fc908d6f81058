"""Engines for PostgreSQL and SQLite, with time-outs everywhere and no retry that nobody sees."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool, PoolProxiedConnection
from sqlalchemy.util import await_only

from marty_lib import _db_errors, log
from marty_lib._db_metrics import TIMEOUTS, WAIT
from marty_lib._db_settings import MEMORY, DatabaseSettings

# The server ends a statement before the client does, which must then give up the connection.
GRACE = 2.0
# For a statement of SQLite's that work cut off has left behind, in seconds.
PATIENCE = 10.0

# Of SQLite: those whose thread had not ended when the last one was made.
_connections: WeakKeyDictionary[Engine, list[Any]] = WeakKeyDictionary()


class MeasuredPool(AsyncAdaptedQueuePool):
    """A pool that tells how long work waits, and refuses it as `Unavailable` when that is too long."""

    def connect(self) -> PoolProxiedConnection:
        began = time.perf_counter()
        try:
            return super().connect()
        except PoolTimeout as error:
            TIMEOUTS.inc()
            raise _db_errors.busy() from error
        finally:
            WAIT.observe(time.perf_counter() - began)


def create(
    settings: DatabaseSettings,
    *,
    url: str,
    size: int,
    overflow: int = 0,
    poolclass: type[Pool] = AsyncAdaptedQueuePool,
    unlimited: bool = False,
) -> AsyncEngine:
    """Return an engine whose errors are translated.

    Args:
        settings: time-outs.
        url: of the database; `of_memory` makes one for a database in memory.
        size: connections that stay open.
        overflow: further ones.
        poolclass: of the pool.
        unlimited: let statements and transactions take their time, as migrations must.
    """
    sqlite = settings.is_sqlite
    engine = create_async_engine(
        url,
        poolclass=poolclass,
        pool_size=size,
        max_overflow=overflow,
        pool_timeout=settings.pool_timeout,
        # In memory nothing is gained by a new connection.
        pool_recycle=-1 if sqlite else settings.pool_recycle or -1,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={"timeout": settings.lock_timeout} if sqlite else _of_postgresql(settings, unlimited=unlimited),
    )
    _db_errors.watch(engine.sync_engine)
    if sqlite:
        _tame_sqlite(engine)
    else:
        event.listen(engine.sync_engine.pool, "checkout", _refuse_closed)
    return engine


async def close(engine: AsyncEngine) -> None:
    """Close all connections. Those of SQLite have threads, which must have ended before the event loop does."""
    await engine.dispose()
    for connection in running(engine):  # what was cut off has not given its connection back
        connection.stop()
        await asyncio.to_thread(connection._thread.join, PATIENCE)


def running(engine: AsyncEngine) -> list[Any]:
    """Return the connections of SQLite whose threads have not ended."""
    return [each for each in _connections.get(engine.sync_engine, ()) if each._thread.is_alive()]


def of_memory() -> str:
    """Return a URL for a new database in memory that several connections share, and that is gone with the last."""
    return f"sqlite+aiosqlite:///file:/marty-{uuid4().hex}?vfs=memdb&uri=true"


def keep(url: str) -> sqlite3.Connection | None:
    """Return a connection that keeps a database in memory while others come and go; None where nothing is lost."""
    target = make_url(url)
    if "vfs" not in target.query:
        return None
    return sqlite3.connect(f"{target.database}?vfs={target.query['vfs']}", uri=True, check_same_thread=False)


def url_of(settings: DatabaseSettings) -> str:
    """Return the URL to connect to; each call makes a database of its own where it is in memory."""
    url = settings.url.get_secret_value()
    return of_memory() if url == MEMORY else url


def _of_postgresql(settings: DatabaseSettings, *, unlimited: bool) -> dict[str, Any]:
    limits = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_timeout,
    }
    longest = 0 if unlimited else settings.statement_timeout
    return {
        "timeout": settings.connect_timeout,
        # A server that hangs ends nothing.
        "command_timeout": longest + GRACE if longest else None,
        "server_settings": {name: "0" if unlimited else milliseconds(value) for name, value in limits.items()}
        | {"timezone": "UTC"},
        "async_creator_fn": Connector(),
    }


def milliseconds(seconds: float) -> str:
    """Return a time as PostgreSQL's settings have it."""
    return str(round(seconds * 1000))


class Connector:
    """Connects to PostgreSQL; says once in the log that it cannot, and once that it can again."""

    def __init__(self) -> None:
        self._failing = False

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        import asyncpg

        try:
            connection = await asyncpg.connect(*arguments, **options)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._tell(failing=True, reason=f"{type(error).__name__}: {error}")
            raise _db_errors.unreachable() from error
        self._tell(failing=False)
        return connection

    def _tell(self, *, failing: bool, reason: str = "") -> None:
        if failing and not self._failing:
            log.get().warning("database.unreachable", reason=reason)
        elif self._failing and not failing:
            log.get().info("database.reachable")
        self._failing = failing


def _refuse_closed(connection: Any, *_: Any) -> None:
    """Do not hand out a connection whose server has gone; looking costs no round trip, as a ping would."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError()


def _tame_sqlite(engine: AsyncEngine) -> None:
    """Have SQLite keep to foreign keys, begin transactions where they begin, and not block readers on a file."""

    def connected(connection: Any, _: Any) -> None:
        # The driver's own BEGIN comes before changes only; a transaction that reads first could not change then.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = NORMAL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def made(*arguments: Any, **options: Any) -> Any:
        import aiosqlite

        connection = aiosqlite.connect(*arguments, **options)
        connection._thread.daemon = True  # as SQLAlchemy has it
        _connections[engine.sync_engine] = [*running(engine), connection]
        return connection

    def connect(_: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        options["async_creator_fn"] = made

    # Who waits for SQLite looks again and again, the seldomer the longer it waits: so only one waits there at a time.
    turn = asyncio.Lock()

    def begin(connection: Any) -> None:
        await_only(turn.acquire())
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            turn.release()

    event.listen(engine.sync_engine, "do_connect", connect)
    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begin)
