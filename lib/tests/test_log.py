"""JSON lines with ids and without secrets, from structlog and the standard library, complete at the end."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from marty_lib import context, log
from marty_lib.settings import LogSettings

SECRET = "hunter2"  # noqa: S105


def test_a_line_is_one_json_object_with_service_level_and_time(logs: Any) -> None:
    log.get().info("order.placed", order=7)

    line = logs.one("order.placed")

    assert line.items() >= {"order": 7, "level": "info", "service": "orders", "version": "1.2.3"}.items()
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None


def test_a_line_break_does_not_make_a_second_line(logs: Any) -> None:
    log.get().info('a\n{"event":"forged"}')

    assert len(logs.text.splitlines()) == 1


def test_a_line_has_the_ids_of_the_request(logs: Any, request_context: context.RequestContext) -> None:
    log.get().info("structlog")
    logging.getLogger("library").warning("stdlib")

    for line in logs.lines:
        assert [line[name] for name in ("request_id", "trace_id", "span_id")] == ["r-1", "4" * 32, "5" * 16]


def test_a_line_has_what_was_bound_to_the_context(logs: Any) -> None:
    with structlog.contextvars.bound_contextvars(tenant="acme"):
        log.get().info("bound")

    assert logs.one("bound")["tenant"] == "acme"


@pytest.mark.parametrize(
    "name",
    [
        "password", "db_passwd", "passphrase", "client_secret", "access_token", "Authorization", "set-cookie",
        "api_key", "x-api-key", "APIKEY", "private_key", "private-key", "credentials",
    ],
)  # fmt: skip
def test_a_value_is_masked_where_its_name_says_so(logs: Any, name: str) -> None:
    log.get().info("masked", **{name: SECRET}, deep={"list": [{name: SECRET}], name: {"any": SECRET}})

    assert SECRET not in logs.text
    assert logs.one("masked")[name] == "***"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://orders:{SECRET}@db/orders",
        f"redis://:{SECRET}@cache:6379/0",
        f"amqp://a:{SECRET}@one:5672,amqp://a:{SECRET}@two:5672",
        f"amqp://a:p@ss{SECRET}@one:5672",
        f"Authorization: Bearer {SECRET}.{SECRET}",
        f"basic {SECRET}{SECRET}==",
    ],
)
@pytest.mark.parametrize("place", ["event", "value", "list", "exception", "object", "stdlib"])
def test_a_secret_is_masked_wherever_it_stands(logs: Any, text: str, place: str) -> None:
    match place:
        case "event":
            log.get().info(text)
        case "value":
            log.get().info("masked", value=text)
        case "list":
            log.get().info("masked", value=[{"deep": (text,)}])
        case "object":
            log.get().info("masked", value=ConnectionError(text), set={text})
        case "exception":
            try:
                raise ConnectionError(text)
            except ConnectionError:
                log.get().exception("masked")
        case "stdlib":
            logging.getLogger("library").info("to %s", text, extra={"more": text})

    assert "***" in logs.text
    assert SECRET not in logs.text


@pytest.mark.parametrize(
    "text", ["http://db:5432/orders", "see https://example.com/@ada", "ada@example.com", "bearer of news"]
)
def test_what_is_not_secret_is_left_alone(logs: Any, text: str) -> None:
    log.get().info("plain", value=text)

    assert logs.one("plain")["value"] == text


@pytest.mark.parametrize("value", [1, 1.5, True, None, "ü", [1, [2]], {"a": {"b": None}}])
def test_a_value_keeps_its_json_type(logs: Any, value: object) -> None:
    log.get().info("typed", value=value)

    assert logs.one("typed")["value"] == value


@pytest.mark.parametrize("value", [{(1, 2): "x"}, {"x"}, object(), b"\xff", "\ud800", Path("x")])
def test_no_value_makes_logging_fail(logs: Any, value: object) -> None:
    log.get().info("odd", value=value)

    assert "value" in logs.one("odd")


def test_a_record_of_the_standard_library_has_its_arguments_logger_and_extras(logs: Any) -> None:
    logging.getLogger("library.part").info("took %d ms of %s", 5, "time", extra={"attempt": 2})

    line = logs.one("took 5 ms of time")

    assert (line["logger"], line["level"], line["attempt"]) == ("library.part", "info", 2)


def test_a_record_of_the_standard_library_has_its_traceback(logs: Any) -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger("library").exception("failed")

    assert "KeyError: 'missing'" in logs.one("failed")["exception"]


def test_a_record_with_wrong_arguments_does_not_reach_its_caller(logs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    [handler] = [found for found in logging.getLogger().handlers if type(found).__module__ == log.__name__]

    handler.handle(logging.LogRecord("library", logging.INFO, __file__, 1, "%d", ("not a number",), None))

    assert logs.lines == []
    assert "Logging error" in capsys.readouterr().err


def test_below_the_level_nothing_is_written(logs: Any) -> None:
    log.configure(LogSettings(level="warning", format="json"))

    log.get().info("structlog")
    logging.getLogger("library").info("stdlib")

    assert logs.lines == []


def test_the_console_is_for_people(logs: Any) -> None:
    log.configure(LogSettings(format="console"), service="orders")

    log.get().info("order.placed", password=SECRET)
    log.access("http.request", context.new(), 0.1, path="/orders", status=200)
    try:
        raise ConnectionError(f"redis://:{SECRET}@cache")
    except ConnectionError:
        log.get().exception("order.failed")
        logging.getLogger("library").exception("library.failed")

    assert all(
        part in logs.text for part in ("order.placed", "http.request", "/orders", "order.failed", "library.failed")
    )
    assert logs.text.count("Traceback") == 2
    assert SECRET not in logs.text


def test_a_redirected_output_is_json_by_default(logs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(LogSettings())

    log.get().info("redirected")

    assert logs.one("redirected")


def test_the_access_line_has_the_requests_ids_service_level_and_time(logs: Any) -> None:
    request = context.RequestContext("r-1", "4" * 32, "5" * 16)

    log.access("http.request", request, 0.0123456, path='/"\n\ud800', status=200)

    line = logs.one("http.request")
    assert line.pop("timestamp")
    assert line == {
        "event": "http.request",
        "path": '/"\n\ud800',
        "status": 200,
        "duration_ms": 12.346,
        "request_id": "r-1",
        "trace_id": "4" * 32,
        "span_id": "5" * 16,
        "level": "info",
        "service": "orders",
        "version": "1.2.3",
    }


def test_without_a_loop_a_line_is_written_at_once() -> None:
    stream = io.BytesIO()

    log.Output(stream).write(b"line")

    assert stream.getvalue() == b"line\n"


async def test_in_a_loop_lines_are_written_together_and_soon(soon: Callable[..., Awaitable[None]]) -> None:
    stream = io.BytesIO()
    output = log.Output(stream)

    output.write(b"one")
    output.write(b"two")
    assert stream.getvalue() == b""

    await soon(lambda: stream.getvalue() == b"one\ntwo\n")


async def test_an_urgent_line_is_written_at_once_after_those_before_it() -> None:
    stream = io.BytesIO()
    output = log.Output(stream)

    output.write(b"one")
    output.write(b"two", urgent=True)

    assert stream.getvalue() == b"one\ntwo\n"


async def test_many_lines_do_not_wait() -> None:
    stream = io.BytesIO()
    output = log.Output(stream)

    for _ in range(log.TOGETHER):
        output.write(b"line")

    assert stream.getvalue() == b"line\n" * log.TOGETHER


async def test_a_line_that_is_made_late_keeps_its_place_and_its_time(logs: Any) -> None:
    began = datetime.now(UTC)
    log.access("first", context.new(), 0.0, path="/")
    ended = datetime.now(UTC)
    log.get().warning("second")

    first, second = logs.lines
    assert [first["event"], second["event"]] == ["first", "second"]
    assert began <= datetime.fromisoformat(first["timestamp"]) + timedelta(milliseconds=1)
    assert datetime.fromisoformat(first["timestamp"]) <= ended


async def test_a_warning_is_urgent(logs: Any) -> None:
    logging.getLogger("library").warning("stdlib")
    log.get().warning("structlog")

    assert logs.stream.getvalue().count(b"\n") == 2


def test_a_second_loop_writes_too(soon: Callable[..., Awaitable[None]]) -> None:
    stream = io.BytesIO()
    output = log.Output(stream)

    async def write() -> None:
        output.write(b"line")

    async def write_and_wait() -> None:
        output.write(b"line")
        await soon(lambda: stream.getvalue() == b"line\nline\n")

    asyncio.run(write())
    asyncio.run(write_and_wait())


async def test_lines_of_threads_are_whole_and_complete(logs: Any) -> None:
    def write(name: int) -> None:
        for number in range(100):
            log.get().info("threaded", name=name, number=number)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        log.get().info("threaded", name=4, number=number)
    for thread in threads:
        await asyncio.to_thread(thread.join)

    assert sorted((line["name"], line["number"]) for line in logs.lines) == [
        (a, b) for a in range(5) for b in range(100)
    ]


def test_lines_that_wait_are_written_when_the_process_ends() -> None:
    code = """
import asyncio
from marty_lib import log
from marty_lib.settings import LogSettings

async def work():
    log.get().info("last words")

log.configure(LogSettings(format="json"))
asyncio.run(work())
"""
    assert b"last words" in subprocess.check_output([sys.executable, "-c", code])
