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
import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from marty_lib import _db_engine, _db_metrics, log
from marty_lib._db_errors import Contention as Contention
from marty_lib._db_errors import is_unique_violation as is_unique_violation
from marty_lib._db_errors import unique_as as unique_as
from marty_lib._db_settings import DatabaseSettings as DatabaseSettings
from marty_lib._db_start import wait_until
from marty_lib._db_tables import Base as Base
from marty_lib._db_tables import UtcDateTime as UtcDateTime
from marty_lib._db_tables import found as found
from marty_lib._db_tables import keyset as keyset
from marty_lib.errors import StartError, Unavailable

T = TypeVar("T")
FIRST_PAUSE = 0.02


def run_environment(metadata: MetaData, settings: Callable[[], DatabaseSettings]) -> None:
    """Be the service's `migrations/env.py`.

    Args:
        metadata: the tables that the schema shall have.
        settings: reads where the database is, where Alembic's own command asks for it.
    """
    _alembic().run_environment(metadata, settings)


class _Unit(NamedTuple):
    """A transaction under way, and the task that it is of."""

    session: AsyncSession
    task: asyncio.Task[object] | None


class Database:
    """A database, its pool of connections, and the unit of work; a component.

    Args:
        settings: URL, pool and time-outs.
        migrations: folder of Alembic's revisions in the service's package; without one the schema is not looked at.
        name: as shown in readiness.
    """

    def __init__(self, settings: DatabaseSettings, *, migrations: Path | None = None, name: str = "database") -> None:
        self.name = name
        self.settings = settings
        self.migrations = migrations
        self.commands = {"migrate": self.migrate} if migrations else {}
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
        """Return when the database answers and its schema is up to date; one of SQLite is brought there.

        Raises:
            StartError: where that is not so after `start_timeout` seconds.
        """
        self._keeper = _db_engine.keep(self._url)
        try:
            await wait_until(self._lacks, seconds=self.settings.start_timeout)
        except StartError:
            await self.stop()
            raise
        if self.migrations is not None and self.settings.is_sqlite:
            await _alembic().upgrade(self.settings, self.migrations, url=self._url)

    async def stop(self) -> None:
        """Close all connections."""
        await _db_engine.close(self._probe)
        await _db_engine.close(self.engine)
        if self._keeper is not None:
            self._keeper.close()

    async def migrate(self, _: Sequence[str] = ()) -> None:
        """Bring the schema up to date: the command `migrate`. Two at once are safe.

        Raises:
            StartError: where the database does not answer for `start_timeout` seconds.
        """
        assert self.migrations is not None
        if self._keeper is None and self._url != self.settings.url.get_secret_value():
            log.get().warning("database.not_migrated", reason="it is in memory, and migrated at each start")
            return
        try:
            await wait_until(self._unreachable, seconds=self.settings.start_timeout)
            await _alembic().upgrade(self.settings, self.migrations, url=self._url)
        finally:
            await _db_engine.close(self._probe)
        log.get().info("database.migrated")

    async def _unreachable(self) -> str:
        try:
            await self.check()
        except Unavailable as error:
            return f"the database cannot be reached ({error.__cause__ or error}): check DATABASE_URL"
        except DBAPIError as error:
            return f"the database cannot be opened ({error.orig}): check DATABASE_URL"
        return ""

    async def _lacks(self) -> str:
        wrong = await self._unreachable()
        if wrong or self.migrations is None or self.settings.is_sqlite:
            return wrong
        async with self._probe.connect() as connection:
            revision = await connection.run_sync(_alembic().missing, self.migrations)
        command = f"python -m {self.migrations.parent.name} migrate"
        return f"the database's schema is not at revision {revision}: run `{command}`" if revision else ""

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


def _alembic() -> ModuleType:
    """Return what stands on Alembic, which is slow to import and talkative about it."""
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from marty_lib import _migrations

    return _migrations
