"""What a piece of work carries along: ids for logs and traces, who asked, and how long there is.

The context of an HTTP request, an RPC or a message is one immutable value in one context variable. Every door of the
service sets it, logs and errors read it, and clients send it on with `outgoing_headers`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from random import getrandbits
from typing import NamedTuple

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
TIMEOUT = "x-request-timeout"
CARRIED = frozenset(name.encode() for name in (REQUEST_ID, TRACEPARENT, TRACESTATE, TIMEOUT))

# https://www.w3.org/TR/trace-context/#traceparent-header: ids of zeros only are invalid, as is version ff; only
# versions after 00 may be longer.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_NOT_ZERO = 1 << 64 | 1
_TRACESTATE = re.compile(rb"[ -~]*")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_SECONDS = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,6})?")


class RequestContext(NamedTuple):
    """The context of one piece of work.

    Args:
        request_id: correlates the log lines of all services that worked on one request.
        trace_id: 32 hexadecimal digits, the W3C trace.
        span_id: 16 hexadecimal digits, this hop of the trace.
        sampled: whether the trace is being recorded.
        tracestate: the vendors' part of the trace, passed on as it came.
        deadline: when the caller stops waiting, in seconds of `time.monotonic()`; None is never.
        principal: who asked, where that is known.
    """

    request_id: str
    trace_id: str
    span_id: str
    sampled: bool = False
    tracestate: str = ""
    deadline: float | None = None
    principal: object | None = None


_current: ContextVar[RequestContext | None] = ContextVar("marty_request_context", default=None)


def current() -> RequestContext | None:
    """Return the context of the work under way, or None outside of any."""
    return _current.get()


@contextmanager
def use(context: RequestContext) -> Iterator[RequestContext]:
    """Make `context` the current one inside a `with` block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def identify(principal: object) -> None:
    """Let the current context know who asked; outside of any it does nothing."""
    context = _current.get()
    if context is not None:
        _current.set(context._replace(principal=principal))


def new(*, deadline: float | None = None) -> RequestContext:
    """Return the context of work that nobody asked for: a new trace, and its id as the request's."""
    ids = (getrandbits(192) | _NOT_ZERO).to_bytes(24, "big").hex()
    trace_id = ids[:32]
    # Not by its own constructor, which is one of Python's functions and costs as much as all the rest of this one.
    return tuple.__new__(RequestContext, (trace_id, trace_id, ids[32:], False, "", deadline, None))


def from_headers(headers: Iterable[tuple[bytes, bytes]], *, latest: float | None = None) -> RequestContext:
    """Return the context that a caller's headers describe; what is missing or malformed is made anew.

    Args:
        headers: lower-case names and values, as ASGI has them.
        latest: the deadline where the caller names none or a later one, in seconds of `time.monotonic()`.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in CARRIED:
            # Several fields of one name are one list, which is right for tracestate and malformed for the others.
            found[name] = found[name] + b"," + value if name in found else value
    return described(found, latest=latest)


def described(found: Mapping[bytes, bytes], *, latest: float | None = None) -> RequestContext:
    """As `from_headers`, where only the headers of `CARRIED` have been kept."""
    if not found:
        return new(deadline=latest)
    parent = _TRACEPARENT.fullmatch(found.get(b"traceparent", b""))
    trace_id = parent[1].decode() if parent else f"{getrandbits(128) or 1:032x}"
    request_id = found.get(b"x-request-id", b"")
    tracestate = found.get(b"tracestate", b"")
    seconds = found.get(b"x-request-timeout", b"")
    return RequestContext(
        request_id.decode() if _REQUEST_ID.fullmatch(request_id) else trace_id,
        trace_id,
        f"{getrandbits(64) or 1:016x}",
        bool(parent and int(parent[3], 16) & 1),
        tracestate.decode() if parent and _TRACESTATE.fullmatch(tracestate) else "",
        earlier(time.monotonic() + float(seconds), latest) if _SECONDS.fullmatch(seconds) else latest,
    )


def earlier(deadline: float | None, latest: float | None) -> float | None:
    """Return the earlier of two deadlines; None is never."""
    if deadline is None or latest is None:
        return latest if deadline is None else deadline
    return min(deadline, latest)


def remaining() -> float | None:
    """Return the seconds left until the deadline (0.0 when it has passed), or None where there is none."""
    context = _current.get()
    if context is None or context.deadline is None:
        return None
    return max(0.0, context.deadline - time.monotonic())


def outgoing_headers() -> dict[str, str]:
    """Return the headers that carry the current context to another service; empty outside of any."""
    context = _current.get()
    if context is None:
        return {}
    headers = {
        REQUEST_ID: context.request_id,
        TRACEPARENT: f"00-{context.trace_id}-{context.span_id}-{int(context.sampled):02x}",
    }
    if context.tracestate:
        headers[TRACESTATE] = context.tracestate
    if context.deadline is not None:
        headers[TIMEOUT] = f"{max(0.0, context.deadline - time.monotonic()):.3f}"
    return headers
