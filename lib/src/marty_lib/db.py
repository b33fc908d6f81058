"""The database: SQLAlchemy on PostgreSQL, or on a SQLite inside the process; one ambient unit of work.

    database = app.add(Database(settings.database))
    async with database.transaction() as session:
        session.add(...)

Whoever opens the door to work (a request, an RPC, a message) begins the transaction; adapters work on
`database.session`; the domain knows of neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from marty_lib import _db_engine, _db_metrics
from marty_lib._db_errors import Contention as Contention
from marty_lib._db_errors import is_unique_violation as is_unique_violation
from marty_lib._db_errors import unique_as as unique_as
from marty_lib._db_settings import DatabaseSettings as DatabaseSettings
from marty_lib._db_tables import Base as Base
from marty_lib._db_tables import UtcDateTime as UtcDateTime
from marty_lib._db_tables import found as found
from marty_lib._db_tables import keyset as keyset

T = TypeVar("T")
FIRST_PAUSE = 0.02


class _Unit(NamedTuple):
    """A transaction under way, and the task that it is of."""

    session: AsyncSession
    task: asyncio.Task[object] | None


class Database:
    """A database, its pool of connections, and the unit of work; a component.

    Args:
        settings: URL, pool and time-outs.
        name: as shown in readiness.
    """

    def __init__(self, settings: DatabaseSettings, *, name: str = "database") -> None:
        self.name = name
        self.settings = settings
        self._url = _db_engine.url_of(settings)
        self._unit: ContextVar[_Unit | None] = ContextVar(f"marty_unit_of_{name}", default=None)
        self._keeper: sqlite3.Connection | None = None
        self.engine = self._make_engine()
        # Of its own, so that a busy pool does not look like a database that is gone.
        self._probe = _db_engine.create(settings, url=self._url, size=1)

    def _make_engine(self) -> AsyncEngine:
        size, overflow = self.settings.pool_size, self.settings.pool_overflow
        engine = _db_engine.create(
            self.settings, url=self._url, size=size, overflow=overflow, poolclass=_db_engine.MeasuredPool
        )
        _db_metrics.watch_pool(engine.sync_engine, most=size + overflow)
        _db_metrics.watch_statements(engine.sync_engine, slow=self.settings.slow_query)
        return engine

    async def start(self) -> None:
        """Return when the database answers."""
        self._keeper = _db_engine.keep(self._url)
        await self.check()

    async def stop(self) -> None:
        """Close all connections."""
        await self._probe.dispose()
        await self.engine.dispose()
        if self._keeper is not None:
            self._keeper.close()

    async def check(self) -> None:
        """Raise where the database does not answer."""
        async with self._probe.connect() as connection:
            await connection.execute(text("SELECT 1"))

    @property
    def session(self) -> AsyncSession:
        """The session of the transaction under way.

        Raises:
            RuntimeError: where this task has begun none.
        """
        unit = self._own()
        if unit is None:
            raise RuntimeError("no transaction is under way in this task: open one with `database.transaction()`")
        return unit.session

    def _own(self) -> _Unit | None:
        """Return the unit of work of this task: one that a parent task has begun is used by the parent only."""
        unit = self._unit.get()
        return unit if unit is not None and unit.task is asyncio.current_task() else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Be a unit of work: commit at the end, roll back on an exception.

        Inside of another one it is a part of that, which commits or rolls back as a whole. It belongs to the task
        that began it; a task made inside begins its own.
        """
        unit = self._own()
        if unit is not None:
            yield unit.session
            return
        outer = self._unit.get()
        session = AsyncSession(self.engine, expire_on_commit=False)
        self._unit.set(_Unit(session, asyncio.current_task()))
        try:
            yield session
            await session.commit()
        except BaseException:
            # Shielded, so that one who is cancelled again still returns the connection.
            await asyncio.shield(asyncio.ensure_future(session.close()))
            raise
        else:
            # The connection is back already: nothing here waits.
            session.sync_session.close()
        finally:
            self._unit.set(outer)

    async def unit_of_work(self) -> AsyncIterator[AsyncSession]:
        """Be a unit of work as a dependency of FastAPI, with `scope="function"`: it commits before the answer."""
        async with self.transaction() as session:
            yield session

    async def retry(self, work: Callable[[], Awaitable[T]], *, attempts: int = 3) -> T:
        """Run `work` as a unit of work, and again where others were in its way.

        Args:
            work: all of it; what it does besides the database is done again too.
            attempts: how often at most.

        Raises:
            Contention: from the last attempt.
            RuntimeError: inside of a transaction, which would have to be run again as a whole.
        """
        if self._own() is not None:
            raise RuntimeError("a part of a transaction cannot be run again: call `retry` outside of it")
        for attempt in range(attempts - 1):
            with contextlib.suppress(Contention):
                async with self.transaction():
                    return await work()
            await asyncio.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5))
        async with self.transaction():
            return await work()
