"""The migrations make the tables that the code expects, and can be taken back."""

import pytest
from alembic import command
from alembic.config import Config


@pytest.fixture
def alembic() -> Config:
    """Alembic as `uv run alembic` has it, on the test's database."""
    return Config(toml_file="pyproject.toml")


def test_the_migrations_make_the_tables_of_the_code(alembic: Config) -> None:
    command.check(alembic)


def test_every_migration_can_be_taken_back(alembic: Config) -> None:
    command.downgrade(alembic, "base")
    command.upgrade(alembic, "head")
    command.check(alembic)
