"""The database's settings, and its URL made fit for the drivers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from marty_lib._sections import Seconds
from marty_lib.settings import Embedded, SecretUrl, Section

MEMORY = "sqlite+aiosqlite:///:memory:"
DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
FORMS = "must be postgresql+asyncpg://USER:PASSWORD@HOST:PORT/NAME or sqlite+aiosqlite:///PATH"


class DatabaseSettings(Section):
    """The database, its pool of connections and its time-outs; a time-out of 0 is none."""

    url: Annotated[
        SecretUrl,
        Embedded(SecretUrl(MEMORY), "Its data is lost with the process: name a PostgreSQL database"),
    ] = SecretUrl(MEMORY)
    """Where the data is: postgresql+asyncpg://USER:PASSWORD@HOST:PORT/NAME, or SQLite as sqlite+aiosqlite:///PATH."""
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 10
    """Connections that stay open; one more is for the readiness check."""
    pool_overflow: Annotated[int, Field(ge=0, le=1000)] = 0
    """Further connections while there is much to do; each is closed after its work, which costs more than to wait."""
    pool_timeout: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds that work waits for a connection before it is refused with 503."""
    pool_recycle: Seconds = 1800.0
    """Seconds after which a connection is replaced by a new one."""
    connect_timeout: Annotated[float, Field(gt=0, le=60)] = 3.0
    """Seconds that making a connection may take."""
    statement_timeout: Seconds = 10.0
    """Seconds that a statement may take; the server ends it."""
    lock_timeout: Seconds = 3.0
    """Seconds that a statement waits for a lock that another transaction holds."""
    idle_timeout: Seconds = 60.0
    """Seconds that a transaction may stand still before the server ends it."""
    start_timeout: Seconds = 30.0
    """Seconds that a start waits for the database and its migrations."""
    slow_query: Seconds = 0.5
    """Seconds from which on a statement is logged, without its parameters; 0 logs none."""

    @field_validator("url", mode="after")
    @classmethod
    def _fit(cls, url: SecretUrl) -> SecretUrl:
        return SecretUrl(fit(url.get_secret_value()))

    @property
    def target(self) -> URL:
        """The URL taken apart."""
        return make_url(self.url.get_secret_value())

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite inside this process."""
        return self.target.get_backend_name() == "sqlite"


def fit(text: str) -> str:
    """Return the URL with the driver that the library uses, `sslmode` under asyncpg's name, memory by one name.

    Raises:
        ValueError: where it is no such URL.
    """
    try:
        url = make_url(text)
        url = url.set(drivername=DRIVERS[url.drivername])
    except (ArgumentError, KeyError, ValueError):
        raise ValueError(FORMS) from None
    if url.get_backend_name() == "sqlite":
        memory = url.database in (None, "", ":memory:")
        return MEMORY if memory else url.render_as_string(hide_password=False)
    if not url.database or not (url.host or "host" in url.query):
        raise ValueError(FORMS)
    query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=False)
