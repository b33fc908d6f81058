"""The one ASGI stack of every HTTP service: context, deadline, body limit, security headers, log, metrics, problems.

One class wraps `send` once: each further layer would cost as much as all parts of this one together. Every part is a
setting of `HttpSettings`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import traceback
from typing import Any
from uuid import uuid4

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from marty_lib import context, log, metrics, tracing
from marty_lib._deadlines import Deadlines, Limit
from marty_lib.context import RequestContext
from marty_lib.errors import DeadlineExceeded, PayloadTooLarge, ServiceError, Unavailable, problem
from marty_lib.health import Health
from marty_lib.settings import HttpSettings

Headers = list[tuple[bytes, bytes]]
PROBLEM = b"application/problem+json"
_LENGTH = re.compile(rb"[0-9]{1,18}")
NO_STATUS = 499  # as nginx has it: the client left, or was cut off, before there was an answer


class Stack:
    """Wraps an ASGI application.

    Args:
        app: what is wrapped.
        settings: which parts are on.
        health: while it drains, connections are closed after each answer.
        traced: whether spans are made, so that ids are taken from them.
        debug: show the traceback of an internal error to the caller.
    """

    def __init__(
        self, app: Any, *, settings: HttpSettings, health: Health, traced: bool = False, debug: bool = False
    ) -> None:
        self.app = app
        self.health = health
        self.traced = traced
        self.debug = debug
        self.limit = settings.body_limit or float("inf")
        self.timeout = settings.request_timeout or None
        self.trust = settings.trust_context
        self.log = settings.access_log
        self.metrics = settings.metrics
        self.secure = security_headers(settings) if settings.security_headers else []
        self.own_names = {b"x-request-id", *(name for name, _ in self.secure)}
        self.deadlines = Deadlines()
        self.active = 0
        if self.metrics:
            metrics.HTTP_ACTIVE.set_function(lambda: self.active)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request, span = self._context(scope)
        token = context._current.set(request)
        exchange = _Exchange(self, request, send)
        self.active += 1
        try:
            await self._answer(scope, receive, exchange)
        finally:
            self.active -= 1
            context._current.reset(token)
            if span is not None:
                tracing.release(span)
            self._record(scope, request, exchange, time.perf_counter() - began)

    def _context(self, scope: Any) -> tuple[RequestContext, object | None]:
        latest = None if self.timeout is None else time.monotonic() + self.timeout
        request: RequestContext | None = scope.get(tracing.SCOPE_KEY)
        if request is None:
            request = context.from_headers(scope["headers"] if self.trust else (), latest=latest)
        else:
            request = request._replace(deadline=context.earlier(request.deadline, latest))
        return tracing.bind(request) if self.traced else (request, None)

    async def _answer(self, scope: Any, receive: Any, exchange: _Exchange) -> None:
        """Have the application answer, and answer for it where it fails."""
        deadline = exchange.request.deadline
        try:
            limited = self._limited(scope, receive)
            if deadline is None:
                await self.app(scope, limited, exchange.send)
                return
            with Limit(self.deadlines, deadline) as timer:
                await self.app(scope, limited, exchange.send)
        except ServiceError as error:
            await exchange.fail(error)
        except TimeoutError as error:
            late = deadline is not None and timer.expired
            await (
                exchange.fail(DeadlineExceeded("The time for this request is over."))
                if late
                else self._broken(exchange, error)
            )
        except asyncio.CancelledError:
            if self.health.draining:
                await exchange.fail(Unavailable("The service is stopping: ask again."))
            raise
        except ClientDisconnect:
            return  # which is recorded as 499
        except Exception as error:
            await self._broken(exchange, error)

    def _limited(self, scope: Any, receive: Any) -> Any:
        """Return a `receive` that keeps to the body limit.

        Raises:
            PayloadTooLarge: at once where the length is announced.
        """
        for name, value in scope["headers"]:
            if name == b"content-length" and _LENGTH.fullmatch(value):
                if int(value) > self.limit:
                    raise PayloadTooLarge(f"The body may have {self.limit} bytes at most.")
            elif name in (b"transfer-encoding", b"content-length"):
                return _counted(receive, self.limit)
        return receive

    async def _broken(self, exchange: _Exchange, error: Exception) -> None:
        """Log what nobody expected, and tell the caller only under which id."""
        error_id = uuid4().hex
        metrics.UNHANDLED.labels("http").inc()
        log.get().error("http.error", error_id=error_id, exc_info=error)
        detail = (
            "".join(traceback.format_exception(error))
            if self.debug
            else "The service failed; the id helps to find out why."
        )
        await exchange.fail(ServiceError(detail), error_id=error_id)

    def _record(self, scope: Any, request: RequestContext, exchange: _Exchange, seconds: float) -> None:
        route = route_of(scope)
        status = exchange.status or NO_STATUS
        if self.metrics:
            metrics.observe_http(scope["method"], route, status, seconds)
        if self.log:
            log.access(
                "http.request", request, seconds, method=scope["method"], path=scope["path"], route=route, status=status
            )


class _Exchange:
    """One request's way out: completes the headers, and knows what has been answered."""

    __slots__ = ("_send", "request", "stack", "status")

    def __init__(self, stack: Stack, request: RequestContext, send: Any) -> None:
        self.stack = stack
        self.request = request
        self.status = 0
        self._send = send

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._complete(list(message.get("headers", ())))
        await self._send(message)

    def _complete(self, headers: Headers) -> Headers:
        stack = self.stack
        present = stack.own_names.intersection([name for name, _ in headers])
        if present:
            headers = [header for header in headers if header[0] != b"x-request-id"]
        headers += [header for header in stack.secure if header[0] not in present] if present else stack.secure
        headers.append((b"x-request-id", self.request.request_id.encode()))
        if stack.health.draining:
            headers.append((b"connection", b"close"))
        return headers

    async def fail(self, error: ServiceError, *, error_id: str = "") -> None:
        """Answer with a problem; where the answer has begun, leave it cut off, which the client notices."""
        if self.status:
            log.get().warning("http.cut_off", code=error.code)
            return
        body = json.dumps(problem(error, request_id=self.request.request_id, error_id=error_id)).encode()
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        headers += [(b"content-type", PROBLEM), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": int(error.status), "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _counted(receive: Any, limit: float) -> Any:
    """Return a `receive` that raises once the body, whose length was not announced, exceeds the limit."""
    seen = 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            # FastAPI turns any other exception raised while it reads a body into a 400.
            raise HTTPException(413, f"The body may have {limit} bytes at most.")
        return message

    return counted


def security_headers(settings: HttpSettings) -> Headers:
    """Return the headers that make browsers careful, after OWASP's REST security cheat sheet."""
    headers = [
        (b"content-security-policy", settings.csp.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
    if settings.hsts_seconds:
        age = f"max-age={settings.hsts_seconds}; includeSubDomains"
        headers.append((b"strict-transport-security", age.encode()))
    return headers


def route_of(scope: Any) -> str:
    """Return the route's path with the names of its parameters: one of few, however many paths are asked for."""
    effective = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(scope.get("route"), "path_format", None) if effective is None else effective.path
    return metrics.UNMATCHED if path is None else f"{scope.get('root_path', '')}{path}"
