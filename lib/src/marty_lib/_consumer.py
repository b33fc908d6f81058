"""The component that takes messages from the broker and has them handled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from marty_lib import log, metrics
from marty_lib._broker import Delivery, Source, wanted
from marty_lib._dead_letters import dead_topic, redriver, retry_topic
from marty_lib._event_commands import commands
from marty_lib._events_wire import Event
from marty_lib._handling import Handler, Handling, Later, Retries
from marty_lib._lanes import Lanes
from marty_lib._redrive import QUIET, dead_letters

if TYPE_CHECKING:
    from marty_lib.events import Events, EventType
    from marty_lib.tracing import Tracing

T = TypeVar("T")
Function = Callable[[Event, T], Awaitable[object]]

COMMIT_EVERY = 0.05
TOGETHER = 100  # messages at once: the first of a thousand has left the processor's cache before it is handled
MEASURE_EVERY = 5.0
LONGEST_PAUSE = 5.0
PATIENCE = 30.0


class Consumer:
    """Handles events: at least once, in order per key, many keys at a time.

    It stops taking, finishes what is under way and commits exactly that when the service drains. It goes on by itself
    when the broker comes back. While a handler raises `Unavailable`, its message is tried until it works.

    Args:
        events: the connection.
        group: the members of one group share the messages; usually the service's name.
        version: of the service, for its AsyncAPI document.
        tracing: of the application, for a span of each handling whose trace is sampled.
        required: whether the service is not ready while it cannot consume.
    """

    drain_phase = 0

    def __init__(
        self, events: Events, *, group: str, version: str = "0", tracing: Tracing | None = None, required: bool = False
    ) -> None:
        self.name = f"consumer-{group}"
        self.required = required
        self.title = group
        self.group = group = events.settings.prefix + group
        self.version = version
        self.draining = False
        self.commands = commands(events, self)
        self.subscriptions: dict[str, EventType[Any]] = {}
        settings = events.settings
        self._events = events
        self._handlers: dict[str, Handler] = {}
        self._limit = settings.max_in_flight
        self._in_flight = 0
        self._up = False
        self._room = asyncio.Event()
        self._finished = asyncio.Event()
        self._tried = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._taking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._source: Source | None = None
        retries = Retries(settings.attempts, settings.delays, settings.handler_timeout)
        provider = tracing.provider if tracing else None
        handling = Handling(group, self._handlers, retries, events.forward, self._settle, provider)
        drop = partial(self._settle, finished=False)
        self._lanes: Lanes[Later] = Lanes(settings.concurrency, handling.attempt, handling.insist, drop)

    def on(self, kind: EventType[T], *, ordered: bool = True) -> Callable[[Function[T]], Function[T]]:
        """Have the decorated function handle events of a type.

        Args:
            kind: the type.
            ordered: whether later events of a key wait for one that failed. Otherwise it is tried again by way of
                the group's retry topic, and the others overtake it.

        Raises:
            ValueError: where the type has a handler already.
        """
        if kind.name in self._handlers:
            raise ValueError(f"there is a handler for {kind.name!r} already: an event type has one in a group")

        def register(function: Function[T]) -> Function[T]:
            self.subscriptions[kind.name] = kind
            self._handlers[kind.name] = Handler(function, kind.adapter, ordered)
            return function

        return register

    @property
    def in_flight(self) -> int:
        """How many messages are fetched and not yet finished or given back."""
        return self._in_flight

    @property
    def topics(self) -> list[str]:
        """The topics that it takes from, the retry topics aside."""
        prefix = self._events.settings.prefix
        return sorted({prefix + kind.topic for kind in self.subscriptions.values()})

    async def start(self) -> None:
        """Join the group, or do so as soon as the broker is there."""
        retries = [retry_topic(topic, self.group) for topic in self.topics]
        self._source = self._events.broker.source([*self.topics, *retries], self.group)
        self._task = asyncio.create_task(self._run(), name=self.name)
        try:
            async with asyncio.timeout(self._events.settings.publish_timeout):
                await self._tried.wait()
        except TimeoutError:
            return

    async def wait(self) -> None:
        """Return when it has ended, which it does by itself only where it has failed."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def check(self) -> None:
        """Raise where it cannot consume."""
        if not self._up:
            raise ConnectionError("the consumer is not connected")

    async def dead_letters(self, limit: int, *, quiet: float = QUIET) -> list[dict[str, str]]:
        """Return the headers of up to `limit` dead letters, which stay; `quiet` seconds without one are the end."""
        return await dead_letters(self._events, self.group, self.topics, limit=limit, quiet=quiet)

    def pause(self) -> None:
        """Take no more messages until `resume`."""
        self._going.clear()

    def resume(self) -> None:
        """Take messages again."""
        self._going.set()

    async def drain(self) -> None:
        """Take nothing more; finish and commit what is under way; give the rest back."""
        await self._taking.acquire()
        self.draining = True
        if self._source is not None:
            await self._source.settle()

    async def stop(self) -> None:
        """End, and leave the group."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._source is not None:
            await self._source.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._lanes.start(group)
            group.create_task(self._take_always())
            group.create_task(self._commit_often())
            group.create_task(self._measure())

    async def _take_always(self) -> None:
        failures = 0
        while wanted():
            try:
                await self._open()
                self._tried.set()
                failures = 0
                await self._take()
            except Exception as error:
                failures += 1
                self._up = False
                self._tried.set()
                log.get().warning("consumer.away", group=self.group, reason=type(error).__name__, failures=failures)
                await self._close()
                await asyncio.sleep(min(LONGEST_PAUSE, 0.1 * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1))

    async def _open(self) -> None:
        assert self._source is not None
        dead = [dead_topic(topic, self.group) for topic in self.topics]
        # Joining a group may wait for the handlers of its other members.
        async with asyncio.timeout(self._events.settings.handler_timeout + PATIENCE):
            await self._events.broker.declare(dead, redriver(self.group))
            await self._source.open()
        self._up = True
        log.get().info("consumer.up", group=self.group, topics=self.topics)

    async def _close(self) -> None:
        assert self._source is not None
        try:
            await self._source.close()
        except Exception as error:
            log.get().debug("consumer.not_closed", group=self.group, reason=type(error).__name__)

    async def _take(self) -> None:
        assert self._source is not None
        while wanted():
            await self._going.wait()
            room = await self._wait_for_room()
            async with self._taking:
                deliveries = await self._source.fetch(room)
                self._in_flight += len(deliveries)
                for delivery in deliveries:
                    self._lanes.put(delivery)
            await asyncio.sleep(0)  # so that lanes begin before more is fetched

    async def _wait_for_room(self) -> int:
        if self._in_flight >= self._limit:
            self._room.clear()
            await self._room.wait()
        return min(TOGETHER, self._limit - self._in_flight)

    def _settle(self, delivery: Delivery, finished: bool) -> None:
        """Take a delivery that is finished, or given back."""
        self._in_flight -= 1
        if self._in_flight <= self._limit * 3 // 4:  # else each message would be fetched by itself
            self._room.set()
        if finished:
            delivery.lease.finished.append(delivery.position)
            self._finished.set()

    async def _commit_often(self) -> None:
        assert self._source is not None
        while wanted():
            await self._finished.wait()
            self._finished.clear()
            try:
                await asyncio.wait_for(self._source.commit(), PATIENCE)
            except Exception as error:
                # What is not committed is delivered again.
                log.get().warning("consumer.not_committed", group=self.group, reason=type(error).__name__)
            await asyncio.sleep(COMMIT_EVERY)

    async def _measure(self) -> None:
        assert self._source is not None
        metrics.EVENTS_IN_FLIGHT.labels(self.group).set_function(lambda: self._in_flight)
        while wanted():
            try:
                lags = await asyncio.wait_for(self._source.lag(), PATIENCE)
                for topic, lag in lags.items():
                    metrics.EVENTS_LAG.labels(topic, self.group).set(lag)
            except Exception as error:
                log.get().debug("consumer.not_measured", group=self.group, reason=type(error).__name__)
            await asyncio.sleep(MEASURE_EVERY)
