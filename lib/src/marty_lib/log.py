"""Structured logs: one JSON object a line, with the ids of the request under way, and without secrets.

`structlog` makes the events; the standard library's loggers go the same way. Lines are written in batches: at once
for warnings and worse, after a tenth of a second at most otherwise.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, BinaryIO

import structlog
from structlog.typing import EventDict, Processor

from marty_lib import context
from marty_lib.settings import LogSettings

FLUSH_AFTER = 0.1
# Lines after which nobody waits: a longer batch would hold up the event loop.
TOGETHER = 200
MASK = "***"

_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secret|token|authorization|cookie|(api|private)[_-]?key|credential", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s]+@")
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)

get = structlog.stdlib.get_logger


# Event, context, seconds, time and fields of a finished request, as `_line` takes them.
Finished = tuple[str, context.RequestContext, float, float, Mapping[str, Any]]


class Output:
    """A stream of lines that is flushed in batches, from any thread.

    Args:
        stream: where the bytes go; by default what is standard output at that time.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream
        self._lines: list[bytes | Finished] = []
        self._lock = threading.Lock()
        self._promised: asyncio.AbstractEventLoop | None = None

    def write(self, line: bytes | Finished, *, urgent: bool = False) -> None:
        """Add a line, or what it will say; `urgent` writes it, and all before it, at once."""
        self._lines.append(line)  # which no other thread comes between
        if urgent or len(self._lines) >= TOGETHER:
            self.flush()
        else:
            self._flush_soon()

    def _flush_soon(self) -> None:
        # A loop that has ended does not keep its promise: the next one makes its own.
        if self._promised is not None and self._promised.is_running():
            return
        try:
            self._promised = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self._promised.call_later(FLUSH_AFTER, self._keep_promise)

    def _keep_promise(self) -> None:
        self._promised = None
        self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        with self._lock:
            # Another thread may add lines meanwhile, at the end.
            lines = self._lines[:]
            del self._lines[: len(lines)]
            if lines:
                stream = self._stream or sys.stdout.buffer
                stream.write(b"\n".join([line if isinstance(line, bytes) else _line(*line) for line in lines]) + b"\n")
                stream.flush()


output = Output()
atexit.register(output.flush)
_quote = json.encoder.encode_basestring
_encode = json.JSONEncoder(default=str, ensure_ascii=False, separators=(",", ":")).encode
_as_json = True
_service: dict[str, str] = {}
_end = "}"


class _Writer:
    """The end of structlog's chain: hands rendered lines to the output."""

    def msg(self, line: str) -> None:
        output.write(line.encode("utf-8", "backslashreplace"))

    def urgent(self, line: str) -> None:
        output.write(line.encode("utf-8", "backslashreplace"), urgent=True)

    debug = info = msg
    warning = error = critical = exception = urgent


class _Handler(logging.Handler):
    """Takes the standard library's records to the output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")
            output.write(line, urgent=record.levelno >= logging.WARNING)
        except Exception:
            self.handleError(record)


def configure(settings: LogSettings, **service: str) -> None:
    """Set up structlog and the standard library's logging for this process.

    Args:
        settings: level and format.
        service: what every line carries, such as `service="orders"` and `version="1.2.0"`.
    """
    global _as_json, _service, _end
    _service = service
    _end = "".join(f",{_quote(name)}:{_quote(what)}" for name, what in service.items()) + "}"
    _as_json = settings.format == "json" or (settings.format == "auto" and not sys.stdout.isatty())
    level = getattr(logging, settings.level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_context,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    final: list[Processor] = [structlog.processors.StackInfoRenderer(), structlog.processors.format_exc_info, redact]
    if _as_json:
        shared.append(_add_service)
        final.append(_render_json)
    else:
        final.append(structlog.dev.ConsoleRenderer(pad_event_to=30))
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Writer(),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
    )
    handler = _Handler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # uvicorn says in three lines what the app says in one; httpx tells whole addresses, tokens in them included.
    for name in ("uvicorn", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _add_service(_: Any, __: str, event: EventDict) -> EventDict:
    event.update(_service)
    return event


def _add_context(_: Any, __: str, event: EventDict) -> EventDict:
    current = context.current()
    if current is not None:
        event.setdefault("request_id", current.request_id)
        event.setdefault("trace_id", current.trace_id)
        event.setdefault("span_id", current.span_id)
    return event


def redact(_: Any, __: str, event: EventDict) -> EventDict:
    """Mask values whose name says that they are secret, passwords in URLs, and bearer tokens."""
    return {name: _redacted(name, value) for name, value in event.items()}


def _redacted(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str):
        return _BEARER.sub(rf"\1 {MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", value))
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(name, inner) for inner in value]
    # Anything else is written as its text, which may be an exception's or a URL's.
    return value if value is None or isinstance(value, (int, float)) else _redacted(name, str(value))


def _render_json(_: Any, __: str, event: EventDict) -> str:
    return _encode(event)


@lru_cache(1)
def _second(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(number))


def access(event: str, request: context.RequestContext, seconds: float, **fields: str | int) -> None:
    """Write one line about a finished request; its fields are known, so it skips structlog's chain and the encoder's.

    Args:
        event: such as `http.request`.
        request: whose ids the line carries.
        seconds: that it took.
        fields: what else there is to say, none of it secret.
    """
    if not _as_json:
        ids = {"request_id": request.request_id, "trace_id": request.trace_id, "span_id": request.span_id}
        get().info(event, **fields, duration_ms=round(seconds * 1000, 3), **ids)
        return
    # One after another the lines of a batch are made in a third of the time that each would take by itself.
    output.write((event, request, seconds, time.time(), fields))


def _line(event: str, request: context.RequestContext, seconds: float, now: float, fields: Mapping[str, Any]) -> bytes:
    members = "".join([f'"{name}":{_quote(what) if isinstance(what, str) else what},' for name, what in fields.items()])
    whole = int(now)
    line = (
        f'{{"event":"{event}",{members}"duration_ms":{seconds * 1000:.3f},'
        f'"request_id":{_quote(request.request_id)},"trace_id":"{request.trace_id}","span_id":"{request.span_id}",'
        f'"level":"info","timestamp":"{_second(whole)}.{int((now - whole) * 1_000_000):06}Z"{_end}'
    )
    return line.encode("utf-8", "backslashreplace")
