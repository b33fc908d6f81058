"""The application: components started in order, one owner of the signals, one order of stopping.

On SIGTERM or SIGINT: not ready any more; wait for the balancers; workers and consumers stop taking work, then the
servers drain together; components stop in reverse order; logs are flushed; exit 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NoReturn, Protocol, TypeVar, runtime_checkable

from marty_lib import _ops, log, metrics
from marty_lib._server import Server
from marty_lib.errors import StartError
from marty_lib.health import Health
from marty_lib.settings import ServiceSettings
from marty_lib.tracing import Tracing

STOP_TIMEOUT = 5.0


class Component(Protocol):
    """A part that is started and stopped with the application.

    It may have more: `async check()` becomes a readiness check, whose result is only shown where `required` is false;
    `async wait()` returns when the part has ended by itself, which ends the application; `async drain()` finishes the
    work under way, with `drain_phase` 0 for what takes work in by itself (workers, consumers) and 1 for servers.
    """

    name: str

    async def start(self) -> None:
        """Return when the part is usable; raise StartError with a remedy where it cannot be."""

    async def stop(self) -> None:
        """Release what the part holds; also called where `start` has failed half-way."""


@runtime_checkable
class _Drains(Protocol):
    drain_phase: int

    async def drain(self) -> None: ...


C = TypeVar("C", bound=Component)


class App:
    """All that a service is made of.

    Args:
        settings: of the service.
        name: of the service.
        version: of the service.
        info: what `/info` tells besides; nothing secret.
    """

    def __init__(
        self, settings: ServiceSettings, *, name: str, version: str, info: dict[str, str] | None = None
    ) -> None:
        self.settings = settings
        self.name = name
        self.version = version
        self.health = Health()
        about = {"name": name, "version": version, "environment": settings.environment}
        metrics.SERVICE.info(about)
        self.tracing = Tracing(settings.otel, **about)
        self.ops = Server(
            "operations",
            _ops.Ops(self.health, about | (info or {})),
            host=settings.ops.host,
            port=settings.ops.port,
            setting="OPS_PORT",
        )
        self._components: list[Component] = [self.tracing]
        self._started: list[Component] = []
        self._stopping = asyncio.Event()
        self._abort = asyncio.Event()

    def add(self, component: C) -> C:
        """Add a component; the order of adding is the order of starting. Returns it."""
        self._components.append(component)
        check = getattr(component, "check", None)
        if check is not None:
            self.health.add(component.name, check, required=getattr(component, "required", True))
        return component

    @property
    def components(self) -> tuple[Component, ...]:
        """The components in start order."""
        return tuple(self._components)

    async def start(self) -> None:
        """Start the operations port, then the components in order.

        Raises:
            StartError: from a component; those started before are stopped again.
        """
        await self.ops.start()
        try:
            for component in self._components:
                self._started.append(component)
                await component.start()
        except BaseException:
            await self._release()
            raise
        self.health.started = True

    async def stop(self, *, delay: float | None = None) -> bool:
        """Drain and stop.

        Args:
            delay: seconds between not being ready and refusing work; by default the settings'.

        Returns:
            Whether all work under way was finished.
        """
        self.health.draining = True
        settings = self.settings.drain
        await self._unless_aborted(asyncio.sleep(settings.delay if delay is None else delay))
        finished = await self._unless_aborted(self._drain(settings.timeout))
        await self._release()
        return finished is True

    async def _drain(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        finished = True
        by_phase = sorted((part for part in self._started if isinstance(part, _Drains)), key=lambda p: p.drain_phase)
        for _, parts in groupby(by_phase, key=lambda part: part.drain_phase):
            finished &= await _all_within(max(0.0, ends - time.monotonic()), "drain", parts)
        return finished

    async def _release(self) -> None:
        ends = time.monotonic() + STOP_TIMEOUT
        for component in [*reversed(self._started), self.ops]:
            # However many hang, a pod's grace period covers them: each has at least a moment to begin.
            await _all_within(max(0.1, ends - time.monotonic()), "stop", [component])
        self._started.clear()

    async def _unless_aborted(self, work: Any) -> Any:
        """Await `work`, unless a second signal comes; return its result, or None where it was given up."""
        task = asyncio.ensure_future(work)
        abort = asyncio.ensure_future(self._abort.wait())
        await asyncio.wait({task, abort}, return_when=asyncio.FIRST_COMPLETED)
        abort.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
        return None

    def _on_signal(self) -> None:
        (self._abort if self._stopping.is_set() else self._stopping).set()

    async def serve(self) -> int:
        """Start, run until a signal comes or a component ends, stop; return the process's exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        starting = asyncio.create_task(self.start())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        try:
            await starting
        except asyncio.CancelledError as error:
            if self._stopping.is_set():
                return 0
            raise StartError("a component was cancelled while it started") from error
        log.get().info("service.started", ops_port=self.ops.port, **self._ports())
        ended = await self._until_ended(stopping)
        log.get().info("service.stopping", because=ended or "signal")
        finished = await self.stop()
        log.get().info("service.stopped", finished=finished)
        return 0 if finished and not ended else 1

    def _ports(self) -> dict[str, int]:
        return {f"{part.name}_port": part.port for part in self._components if hasattr(part, "port")}

    async def _until_ended(self, stopping: asyncio.Task[Any]) -> str:
        """Return the name of the component that ended by itself, or '' after a signal."""
        parts = [part for part in [self.ops, *self._components] if hasattr(part, "wait")]
        waits = {asyncio.create_task(part.wait(), name=part.name): part for part in parts}
        await asyncio.wait({stopping, *waits}, return_when=asyncio.FIRST_COMPLETED)
        ended = "" if stopping.done() else next(task.get_name() for task in waits if task.done())
        for task in waits:
            if task.done() and not task.cancelled() and task.exception():
                log.get().error("component.failed", component=task.get_name(), exc_info=task.exception())
            task.cancel()
        return ended

    def run(self) -> NoReturn:
        """Run the service in this process until it is told to stop, then exit with its code."""
        log.configure(self.settings.log, service=self.name, version=self.version)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                code = runner.run(self.serve())
        except StartError as error:
            log.get().critical("service.cannot_start", reason=str(error))
            code = 1
        except Exception as error:
            log.get().critical("service.failed", exc_info=error)
            code = 1
        log.output.flush()
        sys.exit(code)


async def _all_within(seconds: float, verb: str, parts: Iterable[Any]) -> bool:
    """Have all `parts` drain or stop together; log which did not, and return whether all did, in time."""
    tasks = [asyncio.create_task(getattr(part, verb)(), name=part.name) for part in parts]
    try:
        await asyncio.wait(tasks, timeout=seconds)
    finally:
        late = {task for task in tasks if task.cancel()}
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [
        (task, error)
        for task, error in zip(tasks, results, strict=True)
        if task in late or isinstance(error, BaseException)
    ]
    for task, error in failed:
        log.get().error(f"{verb}.failed", component=task.get_name(), late=task in late, exc_info=error)
    return not failed


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
