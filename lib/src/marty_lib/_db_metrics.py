"""What is measured of a database, and traced: statements, connections, and the wait for one."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.pool import QueuePool

from marty_lib import _spans, log
from marty_lib.metrics import BUCKETS

FASTER = (0.0005, 0.001, 0.0025, *BUCKETS)
LONGEST_STATEMENT = 2000
OPERATIONS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})

DURATION = Histogram(
    "db_client_operation_duration_seconds",
    "Time of database statements, in seconds.",
    ["operation"],
    buckets=FASTER,
)
WAIT = Histogram(
    "db_client_connection_wait_seconds",
    "Time until work had a connection of the pool, in seconds.",
    buckets=FASTER,
)
TIMEOUTS = Counter("db_client_connection_timeouts", "Times that work was refused because no connection became free.")
CONNECTIONS = Gauge("db_client_connection_count", "Connections of the pool.", ["state"])
LIMIT = Gauge("db_client_connection_max", "Connections that the pool may have, overflow included.")
SLOW = Counter("db_client_slow_operations", "Statements that took longer than DATABASE_SLOW_QUERY.")

_children: dict[str, Histogram] = {}


def watch_pool(engine: Engine, *, most: int) -> None:
    """Have the gauges tell of the engine's pool whenever they are asked.

    Args:
        engine: whose pool; it may be replaced by another, as `dispose` does.
        most: how many connections it may have.
    """

    def pool() -> QueuePool:
        assert isinstance(engine.pool, QueuePool)
        return engine.pool

    LIMIT.set(most)
    CONNECTIONS.labels("idle").set_function(lambda: pool().checkedin())
    CONNECTIONS.labels("used").set_function(lambda: pool().checkedout())


def watch_statements(engine: Engine, *, slow: float) -> None:
    """Have each statement timed, slow ones logged, and those of a sampled request traced, without their parameters.

    Args:
        engine: whose statements.
        slow: seconds from which on a statement is logged; 0 logs none.
    """
    limit = slow or float("inf")

    def before(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        context.marty_began = time.perf_counter()

    def after(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        seconds = time.perf_counter() - context.marty_began
        observe(statement, seconds)
        if _spans.wanted():
            _trace(engine, statement, seconds)
        if seconds >= limit:
            _log_slow(statement, seconds)

    def failed(error: ExceptionContext) -> None:
        began = getattr(error.execution_context, "marty_began", None)
        if began is not None and error.statement is not None and _spans.wanted():
            _trace(engine, error.statement, time.perf_counter() - began, failed=True)

    event.listen(engine, "handle_error", failed)
    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)


def observe(statement: str, seconds: float) -> None:
    """Record one statement by its first word; an unusual one counts as `OTHER`, for labels must stay few."""
    operation = statement[:6]
    child = _children.get(operation)
    if child is None:
        child = DURATION.labels(operation if operation in OPERATIONS else "OTHER")
        if operation in OPERATIONS:
            _children[operation] = child
    child.observe(seconds)


def _trace(engine: Engine, statement: str, seconds: float, *, failed: bool = False) -> None:
    text = statement[:LONGEST_STATEMENT]
    operation = statement.split(None, 1)[0]
    _spans.tell(operation, seconds, failed=failed, db__system__name=engine.dialect.name, db__query__text=text)


def _log_slow(statement: str, seconds: float) -> None:
    SLOW.inc()
    log.get().warning(
        "database.slow_query",
        statement=" ".join(statement.split())[:LONGEST_STATEMENT],
        duration_ms=round(seconds * 1000, 1),
    )
