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
from marty_lib.context import REQUEST_ID, TRACEPARENT, TRACESTATE, RequestContext
from marty_lib.errors import DeadlineExceeded, ServiceError, Unavailable

if TYPE_CHECKING:
    from marty_lib._grpc_stack import Authenticate, Stack

_CARRIED = frozenset({REQUEST_ID, TRACEPARENT, TRACESTATE})
_NAMES = {code.value[0]: code.name for code in StatusCode}
# Codes that are the service's fault.
_OURS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Call:
    """What surrounds the handler, from its making until `answered`, `end` or `failed`.

    It is made and ended without a coroutine of its own, and is its own deadline: under load each object and each frame
    costs two to three times what it costs in a loop.

    Args:
        stack: which parts are on.
        method: `package.Service/Method`.
        timeout: seconds until it is ended; 0 is no limit.
        rpc: grpc's context of the call.
    """

    __slots__ = ("_began", "_carries", "_expired", "_method", "_request", "_rpc", "_span", "_stack", "_task")

    def __init__(self, stack: Stack, method: str, timeout: float, rpc: Any) -> None:
        self._stack = stack
        self._method = method
        self._rpc = rpc
        self._span: Any = None
        self._expired = False
        self._began = time.monotonic()
        self._task = task = stack.deadlines.task()
        stack.tasks.add(task)
        self._request = request = self._context(self._deadline(timeout))
        # Nothing is reset at the end: the task, and its context with it, is this call's own.
        context._current.set(request)
        self._carries = ((REQUEST_ID, request.request_id),)
        rpc.set_trailing_metadata(self._carries)

    def _deadline(self, timeout: float) -> float | None:
        """Return the caller's deadline, which grpc keeps, or ours where that is sooner, which is kept here."""
        left: float | None = self._rpc.time_remaining()
        if timeout and (left is None or left > timeout):
            deadline = self._began + timeout
            self._stack.deadlines.add(self, deadline, self._task.get_loop())
            return deadline
        return None if left is None else self._began + left

    def _context(self, deadline: float | None) -> RequestContext:
        stack = self._stack
        carried: dict[str, str] = {}
        if stack.trusts:
            carried = {name: value for name, value in self._rpc.invocation_metadata() if name in _CARRIED}
        if carried:
            found = {name.encode(): value.encode() for name, value in carried.items()}
            request = context.described(found, latest=deadline)
        else:
            request = context.new(deadline=deadline)
        if stack.provider is not None:
            request, self._span = _spans.serve(stack.provider, stack.share, request, carried, self._method)
        return request

    async def authenticate(self, authenticate: Authenticate) -> None:
        """Find out who calls.

        Raises:
            Unauthenticated: from the hook.
        """
        values = [value for name, value in self._rpc.invocation_metadata() if name == "authorization"]
        principal = await authenticate(values[0] if len(values) == 1 else "")
        self._request = self._request._replace(principal=principal)
        context._current.set(self._request)

    def answered(self) -> None:
        """End a unary call that has an answer: only where it has failed the request's id goes with it."""
        rpc = self._rpc
        if rpc.code() is not None:
            self.end()
            return
        if rpc.trailing_metadata() is self._carries:
            rpc.set_trailing_metadata(())
        self.end("OK")

    def end(self, code: str = "") -> None:
        """End it, and record it.

        Args:
            code: what became of it; by default what grpc says.
        """
        stack = self._stack
        seconds = time.monotonic() - self._began
        stack.tasks.discard(self._task)
        stack.deadlines.pending.pop(self, None)
        code = code or _name(self._rpc.code())
        if stack.metrics:
            _grpc_metrics.SERVER_DURATION.observe(seconds, self._method, code)
        if self._span is not None:
            _spans.end(
                self._span,
                failed=code in _OURS,
                rpc__system="grpc",
                rpc__method=self._method,
                rpc__grpc__status_code=code,
            )
        if stack.access_log:
            log.access("grpc.call", self._request, seconds, method=self._method, code=code)

    async def failed(self, error: BaseException) -> None:
        """End it with the status of an error."""
        code = ""
        try:
            code = await self._fail(self._late(error))
        finally:
            self.end(code)

    def expire(self) -> None:
        """Cancel the handler; its end tells this cancellation from all others."""
        self._expired = True
        self._task.cancel()

    def _late(self, error: BaseException) -> BaseException:
        """Return the error, or that the time is over where our own deadline has ended the call."""
        self._stack.deadlines.pending.pop(self, None)
        if self._expired and not self._task.uncancel() and isinstance(error, asyncio.CancelledError):
            return DeadlineExceeded("The time for this call is over.")
        return error

    async def _fail(self, error: BaseException) -> str:
        """Answer with the error's status; return the code where grpc knows none, because nobody hears it any more."""
        if isinstance(error, grpc.aio.AbortError):
            return ""
        if isinstance(error, GeneratorExit):
            return "CANCELLED"
        if isinstance(error, asyncio.CancelledError):
            if not self._stack.stopping:
                return "DEADLINE_EXCEEDED" if self._rpc.time_remaining() == 0 else "CANCELLED"
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
        debug = "".join(traceback.format_exception(error)) if self._stack.debug else ""
        hidden = ServiceError("The service failed; the id helps to find out why.")
        await self._abort(hidden, error_id=error_id, debug=debug)

    async def _abort(self, error: ServiceError, **more: str) -> None:
        request_id = self._request.request_id
        status = _grpc_status.status_of(error, domain=self._stack.domain, request_id=request_id, **more)
        metadata = ((REQUEST_ID, request_id), *_grpc_status.metadata_of(error))
        await self._rpc.abort(*_grpc_status.abort_with(status, metadata))


def _name(code: Any) -> str:
    return "OK" if code is None else _NAMES.get(getattr(code, "value", (code,))[0], "UNKNOWN")
