"""What a database's errors mean to a caller, told where they arise.

A lost or busy database is `Unavailable`, whoever runs the statement; what says that the program or its data is wrong
stays as SQLAlchemy has it, and becomes an internal error if nobody handles it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import IntegrityError

from marty_lib.errors import DeadlineExceeded, ServiceError, Unavailable

RETRY = {"Retry-After": "1"}
STATE = "marty_transaction"

# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNIQUE = "23505"
READ_ONLY = "25006"  # after a failover: the connection leads to what is a replica now
CONTENTION = frozenset({"40001", "40P01", "55P03"})
CANCELLED = "57014"
AWAY = ("08", "53", "57P")
SQLITE_BUSY = frozenset({5, 6})
SQLITE_UNIQUE = frozenset({1555, 2067, 2579})


class Contention(Unavailable):
    """Others work on the same data; the same unit of work may well succeed when it is run again."""

    code = "contention"


def unreachable() -> Unavailable:
    """Return the error for a database that does not answer."""
    return Unavailable("The database cannot be reached: ask again.", headers=RETRY)


def busy() -> Unavailable:
    """Return the error for a pool whose connections are all taken."""
    return Unavailable("The database is busy: ask again.", code="busy", headers=RETRY)


@contextmanager
def unique_as(error: ServiceError) -> Iterator[None]:
    """Raise `error` where the block breaks a unique constraint; flush inside of it.

    Args:
        error: what it means to the caller, such as a `Conflict`.
    """
    try:
        yield
    except IntegrityError as broken:
        if is_unique_violation(broken):
            raise error from broken
        raise


def is_unique_violation(error: IntegrityError) -> bool:
    """Return whether a unique constraint or a primary key was broken."""
    return _sqlstate(error.orig) == UNIQUE or getattr(error.orig, "sqlite_errorcode", None) in SQLITE_UNIQUE


def watch(engine: Engine) -> None:
    """Have the engine's errors translated, and refuse to commit a transaction in which a statement has failed.

    PostgreSQL answers such a COMMIT with a rollback and no error: what the handler had swallowed would be lost.
    """
    event.listen(engine, "begin", _begin)
    event.listen(engine, "commit", _commit)
    event.listen(engine, "handle_error", _failed)


def _begin(connection: Connection) -> None:
    connection.info[STATE] = "open"


def _commit(connection: Connection) -> None:
    if connection.info.get(STATE) == "failed":
        # SQLAlchemy takes the transaction for ended, however this event does.
        connection.connection.rollback()
        raise RuntimeError(
            "a statement of this transaction has failed, so it cannot be committed: let the error out, "
            "or run the statement inside of `session.begin_nested()`"
        )
    connection.info[STATE] = "committing"


def _failed(failure: ExceptionContext) -> None:
    error, connection = failure.original_exception, failure.connection
    state = None
    if connection is not None and not connection.invalidated:
        state = connection.info.get(STATE)
        if not connection.in_nested_transaction():
            connection.info[STATE] = "failed"
    if isinstance(error, OSError) or _sqlstate(error) == READ_ONLY:
        # TimeoutError is one: the server is silent, and what it may yet answer belongs to nobody.
        failure.is_disconnect = True
    elif connection is not None and state == "committing":
        # SQLite would go on with the transaction.
        connection.connection.rollback()
    told = _meaning(error, lost=failure.is_disconnect, committing=state == "committing")
    if told is not None:
        raise told from error


def _meaning(error: BaseException, *, lost: bool, committing: bool) -> ServiceError | None:
    """Return what the caller is told, or None where the program is wrong or the work was cancelled."""
    if not isinstance(error, Exception):
        return None
    sqlstate = _sqlstate(error)
    if lost and committing:
        return Unavailable("It is not known whether the change was made: look before you ask again.")
    if sqlstate in CONTENTION or _sqlite_code(error) in SQLITE_BUSY:
        return Contention("Others work on the same data: ask again.", headers=RETRY)
    if sqlstate == CANCELLED:
        return DeadlineExceeded("The database took too long.")
    return unreachable() if lost or sqlstate.startswith(AWAY) else None


def _sqlstate(error: Any) -> str:
    return getattr(error, "sqlstate", None) or ""


def _sqlite_code(error: Any) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
