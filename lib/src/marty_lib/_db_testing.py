"""Databases for tests: each has one of its own, and none is left behind."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from marty_lib import _db_engine
from marty_lib._db_settings import DatabaseSettings
from marty_lib.settings import SecretUrl


@contextmanager
def template(server: str, folder: Path, migrations: Path | None) -> Iterator[str]:
    """Yield the URL of a database with the newest schema, of which `copy` makes others.

    Args:
        server: URL of any database of the PostgreSQL to use; empty takes a file of SQLite instead.
        folder: where that file is.
        migrations: folder of the service's migrations; None leaves the database empty.
    """
    if not server or _settings(server).is_sqlite:
        file = folder / "template.sqlite"
        file.touch()
        url = f"sqlite+aiosqlite:///{file}"
        _migrate(url, migrations)
        yield url
        return
    with _created(server, "template0") as url:
        _migrate(url, migrations)
        yield url


@contextmanager
def copy(template: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a copy of the template; drop it afterwards, whoever is connected.

    Args:
        template: what `template` has yielded.
        folder: where the copy is, if it is a file.
    """
    settings = _settings(template)
    if settings.is_sqlite:
        file = folder / "test.sqlite"
        shutil.copy(str(settings.target.database), file)
        yield f"sqlite+aiosqlite:///{file}"
        return
    with _created(settings.target.set(database="postgres").render_as_string(False), settings.target.database) as url:
        yield url


@contextmanager
def _created(server: str, template: str | None) -> Iterator[str]:
    settings = _settings(server)
    name = f"test_{uuid4().hex}"
    _in_thread(_execute(settings, f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    try:
        yield settings.target.set(database=name).render_as_string(hide_password=False)
    finally:
        _in_thread(_execute(settings, f'DROP DATABASE "{name}" WITH (FORCE)'))


def _settings(url: str) -> DatabaseSettings:
    return DatabaseSettings(url=SecretUrl(url))


async def _execute(settings: DatabaseSettings, statement: str) -> None:
    """Execute a statement outside of any transaction."""
    engine = _db_engine.create(settings, url=_db_engine.url_of(settings), size=1, unlimited=True)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(statement))
    finally:
        await _db_engine.close(engine)


def _migrate(url: str, migrations: Path | None) -> None:
    from marty_lib.db import Database

    if migrations is not None:
        _in_thread(Database(_settings(url), migrations=migrations).migrate())


def _in_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end; the loop of the test, if any, stays out of it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
