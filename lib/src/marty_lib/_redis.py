"""redis-py's client with one time-out around a whole command, and a guard that lets an outage cost it only once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio
from prometheus_client import Counter, Gauge, Histogram
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as TooLate

from marty_lib import _spans, log
from marty_lib._deadlines import Deadlines, Limit

PROBE_INTERVAL = 0.25
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

DURATION = Histogram(
    "redis_command_duration_seconds",
    "Time of a Redis command, the wait for a connection included, in seconds.",
    ["command"],
    buckets=BUCKETS,
)
ERRORS = Counter("redis_errors", "Redis commands that failed, by kind of error.", ["error"])
UP = Gauge("redis_up", "1 while Redis answers, as the last command or probe has seen it.")

T = TypeVar("T")
_children: dict[str, Histogram] = {}


class RedisDown(NoConnection):
    """Redis is known to be down: the command was not tried."""


class Guard:
    """What is known of the server: after a failure nobody waits for it again until a probe has seen it answer.

    Args:
        timeout: seconds that a command may take, the wait for its turn included.
        size: commands at once.
        probe: returns where the server answers.
    """

    def __init__(self, *, timeout: float, size: int, probe: Callable[[], Awaitable[object]]) -> None:
        self.timeout = timeout
        self.down = False
        self.in_use = 0
        self._turns = asyncio.Semaphore(size)
        self._probe = probe
        self._deadlines = Deadlines()
        self._task: asyncio.Task[None] | None = None
        UP.set(1)

    async def run(self, command: str, work: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """Do what goes over a connection: in turn, in time, measured.

        Raises:
            RedisDown: at once, while the server is known to be down.
            redis.exceptions.TimeoutError: where it takes too long.
        """
        self._check()
        began, failed = time.monotonic(), True
        try:
            with Limit(self._deadlines, began + self.timeout):
                async with self._turns:
                    self._check()
                    self.in_use += 1
                    try:
                        answer = await work(*args, **options)
                        failed = False
                        return answer
                    finally:
                        self.in_use -= 1
        except RedisError as error:
            self._failed(error)
            raise
        except TimeoutError as error:
            late = TooLate(f"Redis did not answer within {self.timeout} s.")
            self._failed(late)
            raise late from error
        finally:
            seconds = time.monotonic() - began
            duration_of(command).observe(seconds)
            if _spans.wanted():
                _spans.tell(command, seconds, failed=failed, db__system__name="redis")

    def _check(self) -> None:
        if self.down:
            raise RedisDown("Redis is down.")

    def _failed(self, error: RedisError) -> None:
        ERRORS.labels(type(error).__name__).inc()
        if isinstance(error, (NoConnection, TooLate, InvalidResponse)) and not self.down:
            self.down = True
            UP.set(0)
            log.get().warning("redis.down", reason=type(error).__name__)
            self._task = asyncio.create_task(self._until_up(), name="redis-probe")

    async def _until_up(self) -> None:
        began = time.monotonic()
        while not await self._answers():  # noqa: ASYNC110
            await asyncio.sleep(PROBE_INTERVAL * random.uniform(0.8, 1.2))
        self.down = False
        UP.set(1)
        log.get().info("redis.up", after=round(time.monotonic() - began, 3))

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self.timeout):
                await self._probe()
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """End the probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


class Client(redis.asyncio.Redis):
    """redis-py's client, guarded. It is not for commands that block: each has the guard's time-out."""

    def __init__(self, pool: ConnectionPool, guard: Guard) -> None:
        super().__init__(connection_pool=pool)
        self._guard = guard

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Do one command; raises as `Guard.run` does."""
        return await self._guard.run(args[0], super().execute_command, *args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        """Return a pipeline, guarded too."""
        return _Pipeline(self._guard, self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    def __init__(self, guard: Guard, *args: Any) -> None:
        super().__init__(*args)
        self._guard = guard

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await self._guard.run("PIPELINE", super().execute, raise_on_error)

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._guard.run(args[0], super().immediate_execute_command, *args, **options)


def duration_of(command: str) -> Histogram:
    """Return the histogram of a command."""
    child = _children.get(command)
    if child is None:
        child = _children[command] = DURATION.labels(command)
    return child
