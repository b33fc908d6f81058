"""How the server ended a call whose requests are a stream.

A server may end such a call before it has read everything: it refuses it, or has its answer early. A message that is
then on its way can't be sent any more, and grpc puts INTERNAL in the place of what the server had said
(https://github.com/grpc/grpc/issues/36066), so that a refusal would look like a failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any

from grpc import StatusCode, aio


class Ended:
    """A call that ends as the server said: to be iterated or awaited, and made as soon as the call is.

    Raises:
        grpc.aio.AioRpcError: with the server's status.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._said: aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        self._said = aio.AioRpcError(
            _now(call.code()),
            trailing_metadata=_now(call.trailing_metadata()),
            details=_now(call.details()),
            debug_error_string=_now(call.debug_error_string()),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except aio.AioRpcError as error:
            raise self._status(error) from None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for answer in self._call:
                yield answer
        except aio.AioRpcError as error:
            status = self._status(error)
            if status.code() is not StatusCode.OK:
                raise status from None

    def _status(self, error: aio.AioRpcError) -> aio.AioRpcError:
        return self._said if self._said is not None and _unsent(error) else error


def _unsent(error: aio.AioRpcError) -> bool:
    return error.code() is StatusCode.INTERNAL and "SendMessageOperation" in (error.debug_error_string() or "")


def _now(known: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that has nothing to wait for: the status may be another one a turn later."""
    try:
        known.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a call that is done has a status")
