"""Migrations by Alembic on a connection of the library's: one at a time, and what a schema lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import MetaData, text
from sqlalchemy.engine import Connection

from marty_lib import _db_engine, log
from marty_lib._db_settings import DatabaseSettings
from marty_lib._db_tables import UtcDateTime
from marty_lib.errors import StartError

# Any number that nobody else locks; it holds in one database.
LOCK = 7_277_801_469_213


async def upgrade(settings: DatabaseSettings, folder: Path, *, url: str) -> None:
    """Bring the schema to the newest revision; where somebody else is at it, wait and find it done.

    Args:
        settings: of the database.
        folder: the migrations.
        url: of the database.

    Raises:
        StartError: where Alembic cannot find its way through the revisions.
    """
    engine = _db_engine.create(settings, url=url, size=1, unlimited=True)
    try:
        async with engine.connect() as connection:
            if not settings.is_sqlite:
                await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
                # Whoever waits for a table's lock holds up all who come after: better fail and try again.
                await connection.execute(text(f"SET lock_timeout = {_db_engine.milliseconds(settings.lock_timeout)}"))
                await connection.commit()
            await connection.run_sync(_upgrade, folder)
    except CommandError as error:
        raise StartError(f"the migrations cannot be run: {error}") from error
    finally:
        # The lock is the connection's.
        await _db_engine.close(engine)


def _upgrade(connection: Connection, folder: Path) -> None:
    if connection.dialect.name == "sqlite":
        # It changes a table by copying it, and the drop of the old one must not reach its children.
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.close()
    command.upgrade(_configuration(folder, connection), "head")


def _configuration(folder: Path, connection: Connection) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(folder).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    return configuration


def missing(connection: Connection, folder: Path) -> str:
    """Return the revision that the schema has yet to be brought to, or '' where it is there or beyond.

    During a roll-out the old version meets the new one's schema; it does not know that revision, and goes on.
    """
    scripts = ScriptDirectory(str(folder))
    wanted = set(scripts.get_heads())
    current = set(MigrationContext.configure(connection).get_current_heads())
    if wanted <= current:
        return ""
    for revision in current:
        if not _knows(scripts, revision):
            log.get().warning("database.newer_schema", revision=revision)
            return ""
    return ", ".join(sorted(wanted))


def _knows(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return scripts.get_revision(revision) is not None
    except (CommandError, RevisionError):
        return False


def run_environment(metadata: MetaData, settings: Callable[[], DatabaseSettings]) -> None:
    """Be Alembic's `env.py`, on the library's connection or, from Alembic's own command, on one of its own.

    Args:
        metadata: the tables that the schema shall have.
        settings: reads where the database is.
    """
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run(metadata, connection=connection)
    elif context.is_offline_mode():
        _run(metadata, url=settings().url.get_secret_value(), literal_binds=True)
    else:
        asyncio.run(_connect_and_run(metadata, settings()))


async def _connect_and_run(metadata: MetaData, settings: DatabaseSettings) -> None:
    engine = _db_engine.create(settings, url=_db_engine.url_of(settings), size=1, unlimited=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(lambda connection: _run(metadata, connection=connection))
    finally:
        await _db_engine.close(engine)


def _run(metadata: MetaData, **options: Any) -> None:
    context.configure(
        target_metadata=metadata,
        render_as_batch=True,
        render_item=_render,
        # So that one may leave its transaction, as CREATE INDEX CONCURRENTLY must.
        transaction_per_migration=True,
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def _render(kind: str, item: object, _: object) -> str | Literal[False]:
    """Write plain SQLAlchemy into revisions, which must outlive this library."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False
