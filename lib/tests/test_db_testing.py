"""Databases for a service's tests: each test has one of its own, and none is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from marty_lib import App, Database, DatabaseSettings, HttpSettings, OpsSettings, ServiceSettings, create_api, serve
from marty_lib._db_testing import copy, template
from marty_lib.settings import SecretUrl
from marty_lib.testing import client_of, started
from sqlalchemy import text

FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("numbers", sa.Column("n", sa.Integer))
"""
ENVIRONMENT = """
from marty_lib.db import run_environment
from sqlalchemy import MetaData

run_environment(MetaData(), lambda: None)
"""


@pytest.fixture(scope="session")
def migrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service") / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT)
    (folder / "versions" / "0001.py").write_text(FIRST)
    return folder


@pytest.fixture(params=["file", "postgresql"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("postgresql_url")) if request.param == "postgresql" else ""


async def execute(url: str, statement: str) -> object:
    database = Database(DatabaseSettings(url=SecretUrl(url)))
    await database.start()
    async with database.transaction() as session:
        result = await session.execute(text(statement))
        first = result.scalar() if result.returns_rows else None  # type: ignore[attr-defined]
    await database.stop()
    return first


async def test_each_copy_has_the_schema_and_nothing_of_another(server: str, migrations: Path, tmp_path: Path) -> None:
    with template(server, tmp_path, migrations) as made:
        for _ in range(2):
            with copy(made, tmp_path) as url:
                assert await execute(url, "SELECT count(*) FROM numbers") == 0
                await execute(url, "INSERT INTO numbers VALUES (1)")


async def test_no_database_is_left_on_the_server(postgresql_url: str, migrations: Path, tmp_path: Path) -> None:
    count = "SELECT count(*) FROM pg_database WHERE datname = '{}'"
    with template(postgresql_url, tmp_path, migrations) as made:
        with copy(made, tmp_path) as url:
            name = url.rpartition("/")[2]
            assert await execute(postgresql_url, count.format(name)) == 1
        assert await execute(postgresql_url, count.format(name)) == 0
    assert await execute(postgresql_url, count.format(made.rpartition("/")[2])) == 0


async def test_a_service_without_migrations_gets_an_empty_database(server: str, tmp_path: Path) -> None:
    with template(server, tmp_path, None) as made, copy(made, tmp_path) as url:
        assert await execute(url, "SELECT 1") == 1


def test_the_fixture_names_the_database_in_the_environment(own_database: str) -> None:
    assert os.environ["DATABASE_URL"] == own_database


async def test_a_started_app_has_its_components_and_no_port() -> None:
    app = App(ServiceSettings(ops=OpsSettings(port=0)), name="orders", version="1")
    database = app.add(Database(DatabaseSettings()))
    api = create_api(app, HttpSettings())

    @api.get("/")
    async def one() -> int:
        async with database.transaction() as session:
            return int(await session.scalar(text("SELECT 1")) or 0)

    server = app.add(serve(api, HttpSettings(port=0)))
    async with started(app), client_of(app) as client:
        assert (await client.get("/")).json() == 1
        assert server.port == 0
