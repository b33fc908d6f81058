"""The fixtures for databases of `marty_lib.testing`; what they stand on is imported when they are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def migrations() -> Path | None:
    """The folder of the service's migrations: its own conftest.py says which."""
    return None


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory, migrations: Path | None) -> Iterator[str]:
    """A database with the newest schema, made once."""
    from marty_lib import _db_testing

    with _db_testing.template(
        os.environ.get("DATABASE_URL", ""), tmp_path_factory.mktemp("database"), migrations
    ) as url:
        yield url


@pytest.fixture
def own_database(database_template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a database of this test's own, with the newest schema; it is DATABASE_URL meanwhile.

    It is on the PostgreSQL that DATABASE_URL names, else a file of SQLite.
    """
    from marty_lib import _db_testing

    with _db_testing.copy(database_template, tmp_path) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        yield url
