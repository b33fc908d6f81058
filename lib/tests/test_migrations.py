"""Migrations: at a start, by command, by two at once, and what a start says where they are missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from marty_lib import Database, DatabaseSettings, StartError, _db_engine
from marty_lib.settings import SecretUrl
from sqlalchemy import text

from tests.servers.server import Server

from .conftest import Logs

SERVICE = """
from pathlib import Path

from marty_lib import App, Database, DatabaseSettings, ServiceSettings, main


class Settings(ServiceSettings):
    database: DatabaseSettings = DatabaseSettings()


def create_app(settings):
    app = App(settings, name="orders", version="1.2.3")
    app.add(Database(settings.database, migrations=Path(__file__).parent / "migrations"))
    return app


if __name__ == "__main__":
    main(Settings, create_app)
"""
ENVIRONMENT = """
from marty_lib import Base
from marty_lib.db import DatabaseSettings, UtcDateTime, run_environment
from marty_lib.settings import ServiceSettings, load
from sqlalchemy import Column, Integer, MetaData, Table


class Settings(ServiceSettings):
    database: DatabaseSettings = DatabaseSettings()


tables = MetaData(naming_convention=Base.metadata.naming_convention)
Table("parcels", tables, Column("id", Integer, primary_key=True), Column("sent_at", UtcDateTime, nullable=False))
run_environment(tables, lambda: load(Settings).database)
"""
TEMPLATE = '''"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades}
'''
FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("applied", sa.Column("revision", sa.String(10)))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SELECT pg_sleep(0.5)")
    op.execute("INSERT INTO applied VALUES ('0001')")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The migrations of a service's package."""
    folder = tmp_path / "parcel_service" / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder.parent / "__main__.py").write_text(SERVICE)
    (folder / "env.py").write_text(ENVIRONMENT)
    (folder / "script.py.mako").write_text(TEMPLATE)
    (folder / "versions" / "0001.py").write_text(FIRST)
    return folder


def database_of(url: str, folder: Path, **settings: Any) -> Database:
    return Database(DatabaseSettings(url=SecretUrl(url), **settings), migrations=folder)


async def applied(database: Database) -> list[str]:
    async with database.transaction() as session:
        return list(await session.scalars(text("SELECT revision FROM applied")))


def migrate(folder: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "parcel_service", "migrate"],
        env={"PYTHONPATH": str(folder.parent.parent), "DATABASE_URL": url, "DATABASE_START_TIMEOUT": "20"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("file", ["", "/orders.sqlite"])
async def test_an_embedded_database_is_migrated_at_each_start(folder: Path, tmp_path: Path, file: str) -> None:
    url = f"sqlite:///{tmp_path}{file}" if file else "sqlite://"
    for _ in range(2):
        database = database_of(url, folder)
        await database.start()
        assert await applied(database) == ["0001"]
        await database.stop()


async def test_a_start_on_a_server_names_the_command_that_is_missing(folder: Path, postgresql_url: str) -> None:
    database = database_of(postgresql_url, folder, start_timeout=0)

    with pytest.raises(StartError, match=r"not at revision 0001: run `python -m parcel_service migrate`"):
        await database.start()
    await database.stop()


async def test_a_start_waits_for_the_migration(folder: Path, postgresql_url: str, logs: Logs, soon: Any) -> None:
    database = database_of(postgresql_url, folder)
    starting = asyncio.create_task(database.start())
    await soon(lambda: "database.waiting" in logs.text)
    await database_of(postgresql_url, folder).migrate()
    await starting

    assert await applied(database) == ["0001"]
    await database.stop()


async def test_a_start_goes_on_with_a_schema_of_a_later_version(folder: Path, postgresql_url: str, logs: Logs) -> None:
    database = database_of(postgresql_url, folder)
    await database.migrate()
    async with database.transaction() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    await database.start()
    await database.stop()

    assert logs.one("database.newer_schema")["revision"] == "0002"


async def test_a_start_waits_for_the_server(folder: Path, postgresql_server: Server, logs: Logs, soon: Any) -> None:
    await database_of(postgresql_server.url, folder).migrate()
    postgresql_server.stop()
    database = database_of(postgresql_server.url, folder)
    starting = asyncio.create_task(database.start())
    await soon(lambda: "database.waiting" in logs.text)
    await asyncio.to_thread(postgresql_server.start)
    await starting
    await database.stop()

    assert ":marty@" not in logs.text


async def test_a_server_that_does_not_come_is_a_start_error(folder: Path, free_port: int) -> None:
    database = database_of(f"postgresql://me:hunter2@127.0.0.1:{free_port}/orders", folder, start_timeout=0)

    for attempt in (database.start, database.migrate):
        with pytest.raises(StartError, match=r"cannot be reached .*: check DATABASE_URL") as refused:
            await attempt()
        assert "hunter2" not in str(refused.value)


async def test_a_file_that_cannot_be_opened_is_a_start_error(folder: Path, tmp_path: Path) -> None:
    database = database_of(f"sqlite:///{tmp_path}/missing/orders.sqlite", folder, start_timeout=0)

    with pytest.raises(StartError, match=r"cannot be opened .*: check DATABASE_URL"):
        await database.start()
    assert not _db_engine.running(database._probe)


def test_two_commands_at_once_migrate_once(folder: Path, postgresql_url: str) -> None:
    both = [migrate(folder, postgresql_url) for _ in range(2)]
    output = [process.communicate(timeout=60)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], output
    assert sum("Running upgrade" in text for text in output) == 1
    assert asyncio.run(applied_in(postgresql_url, folder)) == ["0001"]


async def applied_in(url: str, folder: Path) -> list[str]:
    database = database_of(url, folder)
    await database.start()
    try:
        return await applied(database)
    finally:
        await database.stop()


async def test_a_migration_may_take_longer_than_a_statement(folder: Path, postgresql_url: str) -> None:
    await database_of(postgresql_url, folder, statement_timeout=0.2, idle_timeout=0.2).migrate()

    assert await applied_in(postgresql_url, folder) == ["0001"]


async def test_a_failed_migration_leaves_nothing_behind(folder: Path, postgresql_url: str) -> None:
    (folder / "versions" / "0002.py").write_text(
        FIRST.replace("down_revision = None", 'down_revision = "0001"')
        .replace('revision = "0001"', 'revision = "0002"', 1)
        .replace('"applied", sa', '"broken", sa')
        .replace("INSERT INTO applied", "INSERT INTO nowhere")
    )
    database = database_of(postgresql_url, folder)
    with pytest.raises(Exception, match="nowhere"):
        await database.migrate()
    async with database.transaction() as session:
        assert await session.scalar(text("SELECT version_num FROM alembic_version")) == "0001"
        assert await session.scalar(text("SELECT to_regclass('broken')")) is None
    await database.stop()


async def test_a_database_in_memory_has_nothing_to_migrate(folder: Path, logs: Logs) -> None:
    await database_of("sqlite://", folder).migrate()

    assert logs.one("database.not_migrated")["level"] == "warning"


def test_a_new_revision_names_nothing_of_the_library(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/orders.sqlite")
    configuration = Config()
    configuration.set_main_option("script_location", str(folder))
    command.upgrade(configuration, "head")
    command.revision(configuration, "Send parcels", autogenerate=True)
    revision = ScriptDirectory(str(folder)).get_revision("head")
    assert revision is not None
    written = Path(revision.path).read_text()

    assert "sa.Column('sent_at', sa.DateTime(timezone=True), nullable=False)" in written
    assert "pk_parcels" in written
    assert "marty" not in written


def test_a_schema_can_be_written_down_without_a_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://orders@127.0.0.1:1/orders")
    configuration = Config()
    configuration.set_main_option("script_location", str(folder))
    command.upgrade(configuration, "head", sql=True)

    assert "CREATE TABLE applied" in capsys.readouterr().out
