"""Spans of what a database and Redis do: one for each statement or command of a sampled request."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest
from marty_lib import Database, DatabaseSettings, context
from marty_lib import _spans as spans
from marty_lib.redis import Redis, RedisSettings
from marty_lib.settings import SecretUrl
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.exceptions import ResponseError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

SAMPLED = context.RequestContext("r-1", "4" * 32, "5" * 16, sampled=True)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    database = Database(DatabaseSettings(url=SecretUrl(url)))
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    redis = Redis(RedisSettings(timeout=10.0))
    await redis.start()
    yield redis
    await redis.stop()


def seen(exporter: InMemorySpanExporter) -> list[tuple[str, str, bool]]:
    """Return name, system and failure of each span."""

    def row(span: ReadableSpan) -> tuple[str, str, bool]:
        assert span.kind is trace.SpanKind.CLIENT
        assert 0 <= (span.end_time or 0) - (span.start_time or 0) < 60e9
        system = str((span.attributes or {})["db.system.name"])
        return span.name, system, span.status.status_code is trace.StatusCode.ERROR

    return [row(span) for span in exporter.get_finished_spans()]


async def test_a_statement_is_a_span_without_its_parameters(database: Database, exporter: InMemorySpanExporter) -> None:
    with context.use(SAMPLED):
        async with database.transaction() as session:
            await session.execute(text("SELECT :name"), {"name": "a secret"})

    assert seen(exporter)[-1] == ("SELECT", database.engine.dialect.name, False)
    *_, span = exporter.get_finished_spans()  # SQLite's transaction begins by a statement, too
    query = str((span.attributes or {})["db.query.text"])
    assert query.startswith("SELECT ")
    assert "secret" not in query


async def test_a_statement_that_fails_is_a_span_that_fails(database: Database, exporter: InMemorySpanExporter) -> None:
    with context.use(SAMPLED), pytest.raises(SQLAlchemyError):
        async with database.transaction() as session:
            await session.execute(text("SELECT * FROM nowhere"))

    assert seen(exporter)[-1] == ("SELECT", database.engine.dialect.name, True)


async def test_a_command_is_a_span_and_so_is_one_that_fails(redis: Redis, exporter: InMemorySpanExporter) -> None:
    with context.use(SAMPLED):
        await redis.client.set("name", "a secret")
        with pytest.raises(ResponseError):
            await redis.client.incr("name")

    assert seen(exporter) == [("SET", "redis", False), ("INCRBY", "redis", True)]


async def test_a_pipeline_is_one_span(redis: Redis, exporter: InMemorySpanExporter) -> None:
    with context.use(SAMPLED):
        pipeline = redis.client.pipeline()
        pipeline.set("one", 1)
        pipeline.set("two", 2)
        await pipeline.execute()

    assert seen(exporter) == [("PIPELINE", "redis", False)]


async def test_what_no_sampled_request_asks_for_is_no_span(
    database: Database, redis: Redis, exporter: InMemorySpanExporter
) -> None:
    with context.use(SAMPLED._replace(sampled=False)):
        await redis.client.get("name")
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))

    assert seen(exporter) == []


async def test_where_opentelemetry_is_not_installed_there_are_no_spans(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans._trace.cache_clear()
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    try:
        with context.use(SAMPLED):
            await redis.client.set("name", "value")
    finally:
        spans._trace.cache_clear()
