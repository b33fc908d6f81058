"""What becomes of one message: handled, tried again in place, tried again later, or laid aside as a dead letter."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from marty_lib import _dead_letters, _spans, context, log, metrics, tracing
from marty_lib._broker import Delivery, wanted
from marty_lib._dead_letters import Failure
from marty_lib._deadlines import Deadlines, Limit
from marty_lib._events_wire import Event, InvalidEvent, Message, context_of, decode
from marty_lib.errors import InvalidInput, ServiceError, Unavailable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FIRST_PAUSE = 0.05
OUTAGE_PAUSE = 1.0
UNKNOWN = "<unknown>"
Publish = Callable[[list[Message]], Awaitable[None]]


class Handler(NamedTuple):
    """A function for events of one type."""

    function: Callable[[Event, Any], Awaitable[object]]
    data: TypeAdapter[Any]
    ordered: bool = True


class Retries(NamedTuple):
    """How often and when a message is tried.

    Args:
        attempts: in a row, before it must wait.
        delays: seconds before each further row; after the last one it is dead.
        timeout: seconds that a handler has.
    """

    attempts: int
    delays: tuple[float, ...]
    timeout: float


class Later(NamedTuple):
    """When a delivery is to be tried again.

    Args:
        seconds: to wait.
        rows: of attempts that have failed.
    """

    seconds: float
    rows: int


class Handling:
    """Handles deliveries.

    Args:
        group: that the messages are delivered to.
        handlers: by event type.
        retries: how often and when.
        publish: sends dead letters and later tries; raises where the broker is away.
        settle: takes a delivery that is finished (True) or given back (False).
        provider: makes spans, if any.
    """

    def __init__(
        self,
        group: str,
        handlers: Mapping[str, Handler],
        retries: Retries,
        publish: Publish,
        settle: Callable[[Delivery, bool], None],
        provider: TracerProvider | None = None,
    ) -> None:
        self._group = group
        self._handlers = handlers
        self._retries = retries
        self._publish = publish
        self._settle = settle
        self._provider = provider
        self._deadlines = Deadlines()
        self._retry_suffix = f".{group}.retry"

    async def attempt(self, delivery: Delivery) -> Later | None:
        """Do a delivery, or return when to insist on it."""
        rows = 0
        if delivery.message.topic.endswith(self._retry_suffix):
            rows = _dead_letters.rows(delivery.message)
            wait = _dead_letters.not_before(delivery.message) - time.time()
            if wait > 0:
                return Later(wait, rows)
        with delivery.lease:
            failure = await self._once(delivery.message)
            if failure is not None:
                return await self._row(delivery, rows, failure)
        self._settle(delivery, True)
        return None

    async def insist(self, delivery: Delivery, later: Later) -> None:
        """Do a delivery to the end: handled, dead, or given back because its lease was revoked."""
        following: Later | None = later
        while following is not None and wanted():
            if await _revoked(delivery, following.seconds):
                self._settle(delivery, False)
                return
            with delivery.lease:
                following = await self._row(delivery, following.rows, await self._once(delivery.message))

    async def _row(self, delivery: Delivery, rows: int, failure: Failure | None) -> Later | None:
        """Go on with a row of tries, of which the first has been made, after so many rows; return when the next is due.

        None says that the delivery is settled.
        """
        number = 0
        while failure is not None:
            number += 1
            if failure.permanent or failure.outage or number == self._retries.attempts:
                return await self._fail(delivery, failure, rows)
            if await _revoked(delivery, FIRST_PAUSE * 2**number * random.uniform(0.5, 1)):
                self._settle(delivery, False)
                return None
            failure = await self._once(delivery.message)
        self._settle(delivery, True)
        return None

    async def _fail(self, delivery: Delivery, failure: Failure, rows: int) -> Later | None:
        delays = self._retries.delays
        if failure.outage:
            return Later(OUTAGE_PAUSE * random.uniform(0.5, 1), rows)
        if failure.permanent or rows >= len(delays):
            await self._hand_over(delivery, _dead_letters.dead(delivery.message, self._group, failure, rows))
            metrics.DEAD_LETTERS.labels(delivery.message.topic, failure.reason).inc()
            return None
        wait = delays[rows] * random.uniform(0.8, 1.2)
        if failure.ordered:
            return Later(wait, rows + 1)
        await self._hand_over(delivery, _dead_letters.later(delivery.message, self._group, rows + 1, wait))
        return None

    async def _hand_over(self, delivery: Delivery, message: Message) -> None:
        """Publish what takes the delivery's place, for as long as it takes; only then it is finished."""
        while not delivery.lease.revoked.is_set() and wanted():
            try:
                await self._publish([message])
            except Exception as error:
                log.get().warning("event.not_laid_aside", topic=message.topic, reason=type(error).__name__)
                await _revoked(delivery, random.uniform(0.5, 1))
            else:
                self._settle(delivery, True)
                return
        self._settle(delivery, False)

    async def _once(self, message: Message) -> Failure | None:
        """Handle a message; return why it failed, if it did. In one function, for each coroutine more costs."""
        began = time.monotonic()
        kind, outcome = UNKNOWN, "error"
        event = handler = failure = entered = span = token = None
        try:
            event = decode(message)
            handler = self._handlers.get(event.type)
            if handler is None:
                outcome = "ignored"
                return None
            kind, deadline = event.type, began + self._retries.timeout
            request = context_of(event, deadline)
            if self._provider is not None:
                carried = {context.TRACEPARENT: event.traceparent, context.TRACESTATE: event.tracestate}
                request, span, token = _spans.consume(self._provider, request, carried, f"process {kind}")
            entered = context._current.set(request)
            data = _checked(handler, event)
            with Limit(self._deadlines, deadline, self._deadlines.task()):
                await handler.function(event, data)
            outcome = "ok"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not wanted():
                raise
            failure = _failed(message, event, handler, error)
        finally:
            if entered is not None:
                context._current.reset(entered)
            if span is not None:
                _spans.end(span, failed=failure is not None, messaging__destination__name=message.topic)
            tracing.release(token)
            metrics.EVENTS_HANDLED.observe(time.monotonic() - began, message.topic, kind, outcome)
        return failure


def _failed(message: Message, event: Event | None, handler: Handler | None, error: BaseException) -> Failure:
    """Log what a message has failed with; return what that means for it."""
    if event is None or handler is None:
        return _logged(message.topic, "", error, Failure("invalid-event", str(error), permanent=True))
    return _logged(event.topic, event.id, error, _judge(error)._replace(ordered=handler.ordered))


def _judge(error: BaseException) -> Failure:
    """Return what an error that a handler raised means for its message."""
    name = type(error).__name__
    if isinstance(error, InvalidEvent):
        return Failure("invalid-data", str(error), permanent=True)
    if isinstance(error, Unavailable):
        return Failure("unavailable", name, outage=True)
    if isinstance(error, ServiceError):
        return Failure(error.code, error.detail or name, permanent=isinstance(error, InvalidInput))
    return Failure("timeout" if isinstance(error, TimeoutError) else "internal", name)


def _checked(handler: Handler, event: Event) -> Any:
    """Return an event's data as its handler wants it."""
    try:
        return handler.data.validator.validate_json(event.data)
    except ValidationError as error:
        # The error's text shows the data.
        wrong = ", ".join(sorted({".".join(map(str, part["loc"])) or part["type"] for part in error.errors()}))
        raise InvalidEvent(f"its data is wrong at: {wrong}") from None


def _logged(topic: str, event_id: str, error: BaseException, failure: Failure) -> Failure:
    """Log a failure under an id, and return it with the id."""
    failure = failure._replace(error_id=uuid4().hex)
    log.get().warning(
        "event.failed",
        topic=topic,
        event_id=event_id,
        reason=failure.reason,
        error_id=failure.error_id,
        exc_info=None if failure.permanent or failure.outage else error,
        detail=failure.detail,
    )
    return failure


async def _revoked(delivery: Delivery, seconds: float) -> bool:
    """Wait so many seconds, or until the lease is revoked; return whether it was."""
    try:
        async with asyncio.timeout(seconds):
            await delivery.lease.revoked.wait()
    except TimeoutError:
        return False
    return True
