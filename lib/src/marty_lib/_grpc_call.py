"""One gRPC call: its context and deadline, who calls, what becomes of its errors, and what is recorded of it."""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from grpc import StatusCode

from marty_lib import _grpc_metrics, _grpc_status, _spans, context, log, metrics
from marty_lib._deadlines import Limit
from marty_lib.context import REQUEST_ID, TRACEPARENT, TRACESTATE, RequestContext
from marty_lib.errors import DeadlineExceeded, ServiceError, Unavailable

if TYPE_CHECKING:
    from marty_lib._grpc_stack import Stack

_CARRIED = frozenset({REQUEST_ID, TRACEPARENT, TRACESTATE})
_NAMES = {code.value[0]: code.name for code in StatusCode}
# Codes that are the service's fault.
_OURS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Call:
    """What surrounds the handler.

    Args:
        stack: which parts are on.
        method: `package.Service/Method`.
        timeout: seconds until it is ended; 0 is no limit.
        rpc: grpc's context of the call.
    """

    __slots__ = ("began", "method", "request", "rpc", "span", "stack", "task", "timeout", "timer")

    def __init__(self, stack: Stack, method: str, timeout: float, rpc: Any) -> None:
        self.stack = stack
        self.method = method
        self.timeout = timeout
        self.rpc = rpc
        self.task: Any = None
        self.timer: Limit | None = None
        self.span: Any = None

    async def __aenter__(self) -> Call:
        self.began = time.perf_counter()
        self.task = asyncio.current_task()
        self.stack.tasks.add(self.task)
        self.request = self._context()
        # Nothing is reset at the end: the task, and its context with it, is this call's own.
        context._current.set(self.request)
        self.rpc.set_trailing_metadata(((REQUEST_ID, self.request.request_id),))
        if self.timer is not None:
            self.timer.__enter__()
        return self

    def _context(self) -> RequestContext:
        carried: dict[str, str] = {}
        if self.stack.settings.trust_context:
            carried = {name: value for name, value in self.rpc.invocation_metadata() if name in _CARRIED}
        found = {name.encode(): value.encode() for name, value in carried.items()}
        request = context.described(found, latest=self._deadline())
        if self.stack.provider is not None:
            request, self.span = _spans.serve(self.stack.provider, self.stack.share, request, carried, self.method)
        return request

    def _deadline(self) -> float | None:
        """Return the caller's deadline, which grpc keeps, or ours where that is sooner, which the timer keeps."""
        left: float | None = self.rpc.time_remaining()
        if self.timeout and (left is None or left > self.timeout):
            deadline = time.monotonic() + self.timeout
            self.timer = Limit(self.stack.deadlines, deadline)
            return deadline
        return None if left is None else time.monotonic() + left

    async def admit(self) -> None:
        """Refuse the call where there are too many, or find out who calls.

        Raises:
            Unavailable: where there are too many.
            Unauthenticated: from the hook.
        """
        stack = self.stack
        if len(stack.tasks) > stack.limit:
            raise Unavailable("The service has too many calls to answer: ask again.", code="overloaded")
        if stack.authenticate is not None:
            values = [value for name, value in self.rpc.invocation_metadata() if name == "authorization"]
            principal = await stack.authenticate(values[0] if len(values) == 1 else "")
            self.request = self.request._replace(principal=principal)
            context._current.set(self.request)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        code = ""
        try:
            if self.timer is not None:
                error = self._late(kind, error, trace)
            if error is not None:
                code = await self._fail(error)
        finally:
            self.stack.tasks.discard(self.task)
            self._record(code or _name(self.rpc.code()), time.perf_counter() - self.began)

    def _late(self, *failed: Any) -> BaseException | None:
        """Return the error, or that the time is over where our own timer has ended the call."""
        assert self.timer is not None
        try:
            self.timer.__exit__(*failed)
        except TimeoutError:
            return DeadlineExceeded("The time for this call is over.")
        error: BaseException | None = failed[1]
        return error

    async def _fail(self, error: BaseException) -> str:
        """Answer with the error's status; return the code where grpc knows none, because nobody hears it any more."""
        if isinstance(error, grpc.aio.AbortError):
            return ""
        if isinstance(error, GeneratorExit):
            return "CANCELLED"
        if isinstance(error, asyncio.CancelledError):
            if not self.stack.stopping:
                return "DEADLINE_EXCEEDED" if self.rpc.time_remaining() == 0 else "CANCELLED"
            error = Unavailable("The service is stopping: ask again.")
        if not isinstance(error, ServiceError):
            await self._broken(error)
        else:
            await self._abort(error)
        return ""

    async def _broken(self, error: BaseException) -> None:
        """Log what nobody expected, and tell the caller only under which id."""
        error_id = uuid4().hex
        metrics.UNHANDLED.labels("grpc").inc()
        log.get().error("grpc.error", error_id=error_id, exc_info=error)
        debug = "".join(traceback.format_exception(error)) if self.stack.debug else ""
        hidden = ServiceError("The service failed; the id helps to find out why.")
        await self._abort(hidden, error_id=error_id, debug=debug)

    async def _abort(self, error: ServiceError, **more: str) -> None:
        request_id = self.request.request_id
        status = _grpc_status.status_of(error, domain=self.stack.domain, request_id=request_id, **more)
        metadata = ((REQUEST_ID, request_id), *_grpc_status.metadata_of(error))
        await self.rpc.abort(*_grpc_status.abort_with(status, metadata))

    def _record(self, code: str, seconds: float) -> None:
        request, settings = self.request, self.stack.settings
        if settings.metrics:
            _grpc_metrics.SERVER_DURATION.observe(seconds, self.method, code)
        if self.span is not None:
            _spans.end(
                self.span,
                failed=code in _OURS,
                rpc__system="grpc",
                rpc__method=self.method,
                rpc__grpc__status_code=code,
            )
        if settings.access_log:
            log.access("grpc.call", request, seconds, method=self.method, code=code)


def _name(code: Any) -> str:
    return "OK" if code is None else _NAMES.get(getattr(code, "value", (code,))[0], "UNKNOWN")
