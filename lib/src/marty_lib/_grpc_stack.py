"""The one stack of every gRPC service: context, deadline, errors, principal, log, metrics, spans.

Handlers are wrapped once, when they are added: an interceptor would be a coroutine more for each call, and six of them
six. Every part is a setting of `GrpcSettings`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from grpc import StatusCode

from marty_lib import _grpc_metrics, metrics
from marty_lib._deadlines import Deadlines
from marty_lib._grpc_call import Call
from marty_lib.errors import Unavailable

if TYPE_CHECKING:
    from marty_lib._app import App
    from marty_lib.grpc import GrpcSettings

Authenticate = Callable[[str], Awaitable[object]]


class Stack:
    """Wraps the handlers of a server.

    Args:
        app: whose calls these are.
        settings: which parts are on.
        authenticate: returns the principal for the value of `authorization`.
    """

    def __init__(self, app: App, settings: GrpcSettings, authenticate: Authenticate | None = None) -> None:
        self.domain = app.name
        self.debug = app.settings.debug
        self.provider = app.tracing.provider
        self.share = app.settings.otel.traces_sampler_arg
        self.settings = settings
        self.trusts = settings.trust_context
        self.metrics = settings.metrics
        self.access_log = settings.access_log
        self.limit = settings.max_calls or float("inf")
        self.authenticate = authenticate
        self.deadlines = Deadlines()
        self.stopping = False
        self.tasks: set[asyncio.Task[Any]] = set()
        if settings.metrics:
            _grpc_metrics.SERVER_ACTIVE.set_function(lambda: len(self.tasks))

    def wrap(self, method: str, handler: Any) -> Any:
        """Return the handler of a method behind the stack.

        Args:
            method: `package.Service/Method`.
            handler: grpc's, whose function is async.

        Raises:
            TypeError: where the function is not async: it would block all others.
        """
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        inner = getattr(handler, kind)
        if inspect.isasyncgenfunction(inner):
            wrapped: Any = self._generator(method, inner, self.settings.stream_timeout)
        elif inspect.iscoroutinefunction(inner):
            streams = handler.request_streaming or handler.response_streaming
            timeout = self.settings.stream_timeout if streams else self.settings.request_timeout
            wrapped = self._coroutine(method, inner, timeout, unary=not streams)
        else:
            raise TypeError(f"{method} is answered by a function that is not async: write `async def`")
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _coroutine(self, method: str, inner: Any, timeout: float, *, unary: bool) -> Any:
        authenticate = self.authenticate

        async def answer(request: Any, rpc: Any) -> Any:
            call = Call(self, method, timeout, rpc)
            try:
                if len(self.tasks) > self.limit:
                    raise _too_many()
                if authenticate is not None:
                    await call.authenticate(authenticate)
                answered = await inner(request, rpc)
            except BaseException as error:
                await call.failed(error)
                raise
            if unary:
                call.answered()
            else:
                call.end()
            return answered

        return answer

    def _generator(self, method: str, inner: Any, timeout: float) -> Any:
        authenticate = self.authenticate

        async def answers(request: Any, rpc: Any) -> AsyncIterator[Any]:
            call = Call(self, method, timeout, rpc)
            try:
                if len(self.tasks) > self.limit:
                    raise _too_many()
                if authenticate is not None:
                    await call.authenticate(authenticate)
                async with aclosing(inner(request, rpc)) as found:
                    async for each in found:
                        yield each
            except BaseException as error:
                await call.failed(error)
                raise
            call.end()

        return answers

    async def cut_off(self) -> None:
        """End the calls under way; their callers are told to ask again."""
        self.stopping = True
        tasks = set(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)


def _too_many() -> Unavailable:
    return Unavailable("The service has too many calls to answer: ask again.", code="overloaded")


class Unknown(grpc.GenericRpcHandler):
    """Answers the calls of methods that are not there, so that they are logged and counted as one."""

    def __init__(self, stack: Stack) -> None:
        async def answer(_: Any, rpc: Any) -> None:
            await rpc.abort(StatusCode.UNIMPLEMENTED, "There is no such method here.")

        self._handler = stack.wrap(metrics.UNMATCHED, grpc.stream_stream_rpc_method_handler(answer))

    def service(self, _: Any) -> Any:
        """Return what answers, whatever is asked for."""
        return self._handler
