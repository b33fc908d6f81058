"""The database's settings: which URLs are fit, and that no password is shown."""

from __future__ import annotations

import pytest
from marty_lib import DatabaseSettings, ServiceSettings, SettingsError
from marty_lib.settings import SecretUrl, dump, load, reference


class Settings(ServiceSettings):
    database: DatabaseSettings = DatabaseSettings()


def url_of(text: str) -> str:
    return DatabaseSettings(url=SecretUrl(text)).url.get_secret_value()


@pytest.mark.parametrize(
    ("given", "fit"),
    [
        ("postgres://me@db/orders", "postgresql+asyncpg://me@db/orders"),
        ("postgresql://me:pw@db:5433/orders", "postgresql+asyncpg://me:pw@db:5433/orders"),
        ("postgresql://me@db/orders?sslmode=require", "postgresql+asyncpg://me@db/orders?ssl=require"),
        ("postgresql+asyncpg://me:p%40ss@db/orders", "postgresql+asyncpg://me:p%40ss@db/orders"),
        ("sqlite:////var/lib/orders.sqlite", "sqlite+aiosqlite:////var/lib/orders.sqlite"),
        ("sqlite://", "sqlite+aiosqlite:///:memory:"),
        ("sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite:///:memory:"),
    ],
)
def test_a_url_is_made_fit_for_the_driver(given: str, fit: str) -> None:
    assert url_of(given) == fit


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "orders",
        "mysql://me:hunter2@db/orders",
        "postgresql+psycopg://me@db/orders",
        "postgresql://me@db:x/orders",
        "postgresql://me:hunter2@db",
        "postgresql:///orders",
    ],
)
def test_another_url_is_refused_with_the_forms_that_are_taken(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", wrong)
    with pytest.raises(SettingsError, match=r"DATABASE_URL: .*must be postgresql\+asyncpg://USER") as refused:
        load(Settings)
    assert "hunter2" not in str(refused.value)


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db:5432/orders?ssl=require&password=hunter2")
    settings = load(Settings)
    shown = f"{dump(settings)} {reference(settings)} {settings!r}"

    assert "hunter2" not in shown
    assert dump(settings)["DATABASE_URL"] == "postgresql+asyncpg://me:***@db:5432/orders"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("amqp://me:p:hunter2@a@broker/shop", "amqp://me:***@broker/shop"),
        ("kafka://a:9092,b:9092", "kafka://a:9092,b:9092"),
        ("memory://", "memory://"),
        ("http://[hunter2", "***"),
        ("", "://"),
    ],
)
def test_a_secret_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(SecretUrl(url)) == shown


def test_production_refuses_the_database_in_memory_by_whatever_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    for url in (None, "sqlite://", "sqlite:///:memory:"):
        if url:
            monkeypatch.setenv("DATABASE_URL", url)
        with pytest.raises(SettingsError, match="name a PostgreSQL database") as refused:
            load(Settings)
        assert len(refused.value.wrong) == 1


def test_a_trial_in_production_may_be_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("ALLOW_EMBEDDED", "true")

    assert load(Settings).database.is_sqlite
