"""Channels to other services: deadline, context, breaker, metrics and spans on every call; errors of the library.

grpc itself retries, balances, and asks whether a connection is alive; what only this service knows is added here.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any

import grpc
from grpc import StatusCode, aio

from marty_lib import _grpc_metrics, _grpc_status, _spans, context
from marty_lib._breaker import Breaker
from marty_lib._grpc_ended import Ended
from marty_lib.errors import DeadlineExceeded, ServiceError


def create_channel(
    target: str,
    *,
    name: str,
    safe: Sequence[str] = (),
    timeout: float = 10.0,
    breaker: Breaker | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> aio.Channel:
    """Return a channel to another service; to be called in the event loop, and closed before it ends.

    Calls raise the library's errors: what that service refuses with NOT_FOUND is a `NotFound` here, with its code, its
    wrong fields and its pause.

    Args:
        target: such as `orders:50051`; `dns:///orders-headless:50051` spreads calls over all pods.
        name: of the other service, as shown in errors and metrics.
        safe: methods (`package.Service/Method`, or `package.Service` for all of it) that may be sent again when the
            service is unavailable: those that change nothing, or the same whether once or twice.
        timeout: seconds for a call that names none; what is left of the work under way is never exceeded.
        breaker: of these calls; by default one of their own. Share it where channels lead to one service.
        credentials: for TLS; without it the mesh is in charge.
    """
    outgoing = _Outgoing(name, timeout, breaker or Breaker(name))
    options: Any = _options(safe)
    interceptors: list[Any] = [kind(outgoing) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]
    if credentials is None:
        return aio.insecure_channel(target, options, interceptors=interceptors)
    return aio.secure_channel(target, credentials, options, interceptors=interceptors)


def _options(safe: Sequence[str]) -> list[tuple[str, int | str]]:
    return [
        ("grpc.service_config", json.dumps(service_config(safe))),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def service_config(safe: Sequence[str]) -> dict[str, Any]:
    """Return grpc's own configuration: calls go to all addresses in turn, and safe ones are sent again."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    if safe:
        policy = {
            "maxAttempts": 3,
            "initialBackoff": "0.1s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        names = [dict(zip(("service", "method"), name.split("/"), strict=False)) for name in safe]
        # Once half of the calls fail, none is sent again: retries must not feed an outage.
        config["methodConfig"] = [{"name": names, "retryPolicy": policy}]
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
    return config


class _Outgoing:
    """What the four kinds of calls share."""

    def __init__(self, name: str, timeout: float, breaker: Breaker) -> None:
        self.name = name
        self.timeout = timeout
        self.breaker = breaker

    def begin(self, details: aio.ClientCallDetails) -> _Work:
        """Return one call's surroundings.

        Raises:
            DeadlineExceeded: where no time is left.
            Unavailable: where the breaker is open.
        """
        left = context.remaining()
        if left == 0.0:
            raise DeadlineExceeded("The time for this is over.")
        self.breaker.admit()
        timeout = self.timeout if details.timeout is None else details.timeout
        return _Work(self, details, timeout if left is None else min(timeout, left))


class _Work:
    """One call: what it carries, and what becomes of its result. Use it with `with` around the waiting."""

    def __init__(self, outgoing: _Outgoing, details: aio.ClientCallDetails, timeout: float) -> None:
        self._outgoing = outgoing
        self._began = time.perf_counter()
        method: Any = details.method
        self._method = (method.decode() if isinstance(method, bytes) else method).removeprefix("/")
        self._span, carried = _spans.ask(self._method)
        metadata: Any = aio.Metadata(*(details.metadata or ()))
        for key, value in carried.items():
            if key != context.TIMEOUT and key not in metadata:
                metadata.add(key, value)
        self.details = aio.ClientCallDetails(
            details.method, timeout, metadata, details.credentials, details.wait_for_ready
        )

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        code = StatusCode.OK.name
        mapped = error
        if isinstance(error, aio.AioRpcError):
            code = error.code().name
            mapped = _grpc_status.error_of(error)
        elif error is not None:
            code = StatusCode.CANCELLED.name
        self._end(code, mapped)
        if mapped is not error:
            assert mapped is not None
            raise mapped from error

    def _end(self, code: str, error: BaseException | None) -> None:
        outgoing = self._outgoing
        outgoing.breaker.record(error)
        seconds = time.perf_counter() - self._began
        _grpc_metrics.CLIENT_DURATION.observe(seconds, outgoing.name, self._method, code)
        if self._span is not None:
            failed = isinstance(error, ServiceError)
            _spans.end(
                self._span, failed=failed, rpc__system="grpc", rpc__method=self._method, rpc__grpc__status_code=code
            )

    async def each(self, call: Any) -> AsyncIterator[Any]:
        """Yield what a call streams."""
        with self:
            async for answer in call:
                yield answer


class _UnaryUnary(aio.UnaryUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        work = self._outgoing.begin(client_call_details)
        with work:
            call = await continuation(work.details, request)
            await call
        return call


class _UnaryStream(aio.UnaryStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        work = self._outgoing.begin(client_call_details)
        return work.each(await continuation(work.details, request))


class _StreamUnary(aio.StreamUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        work = self._outgoing.begin(client_call_details)
        # To wait here for the answer would keep the caller from writing what is to be answered.
        return _Awaited(Ended(await continuation(work.details, request_iterator)), work)


class _StreamStream(aio.StreamStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        work = self._outgoing.begin(client_call_details)
        return work.each(Ended(await continuation(work.details, request_iterator)))


class _Awaited:
    """A call whose answer is waited for within its surroundings."""

    def __init__(self, call: Any, work: _Work) -> None:
        self._call = call
        self._work = work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        with self._work:
            return (yield from self._call.__await__())
