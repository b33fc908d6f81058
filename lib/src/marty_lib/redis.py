"""Redis: one client with short time-outs, a bounded pool, metrics, a health check; in process where none is set.

A command takes `REDIS_TIMEOUT` at most, the wait for a connection included, and is never retried behind the caller's
back. After a failure the commands that follow fail at once until a probe sees the server answer: an outage costs one
time-out, not one a command, and ends by itself. Whoever uses Redis declares what then happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

import redis.asyncio
from prometheus_client import Gauge
from pydantic import Field, field_validator
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from marty_lib import log
from marty_lib._batches import Batches
from marty_lib._redis import Client, Guard
from marty_lib._redis import RedisDown as RedisDown
from marty_lib._sections import Embedded, SecretUrl, Section
from marty_lib.errors import StartError, Unavailable

MEMORY_URL = SecretUrl("memory://")
MOST_AT_ONCE = 64
SCHEMES = ("redis", "rediss", "unix")

POOL_IN_USE = Gauge("redis_pool_connections_in_use", "Connections to Redis that are in use.")
POOL_SIZE = Gauge("redis_pool_connections_max", "Connections to Redis that may be in use at once.")


class RedisSettings(Section):
    """The Redis server."""

    url: Annotated[SecretUrl, Embedded(MEMORY_URL, "Name a server: redis://[user:password@]host:6379/0")] = MEMORY_URL
    """Address such as redis://user:password@host:6379/0, rediss:// for TLS; memory:// keeps all in this process."""
    prefix: str = ""
    """What the names of all keys begin with, so that services may share a server."""
    timeout: Annotated[float, Field(gt=0, le=60)] = 0.1
    """Seconds that a command may take, the wait for a connection included."""
    pool_size: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Connections at most."""

    @field_validator("url")
    @classmethod
    def _known(cls, url: SecretUrl) -> SecretUrl:
        text = url.get_secret_value()
        if url != MEMORY_URL and urlsplit(text).scheme not in SCHEMES:
            raise ValueError("must begin with redis://, rediss:// or unix://, or be memory://")
        return url


class Redis:
    """The component that owns the client and its connections.

    Args:
        settings: of the server.
        required: whether the service cannot work without it; where every user of it has an outage policy, it can, and
            an outage is only shown in readiness.
    """

    def __init__(self, settings: RedisSettings, *, required: bool = True) -> None:
        self.name = "redis"
        self.required = required
        self._prefix = settings.prefix
        connection_class, options = _connections(settings.url)
        # A connection of its own, so that a pool in full use is not taken for an outage.
        self._prober = redis.asyncio.Redis.from_pool(ConnectionPool(connection_class, max_connections=1, **options))
        self._probing = asyncio.Lock()
        self._guard = Guard(timeout=settings.timeout, size=settings.pool_size, probe=self._ping)
        self.client = Client(ConnectionPool(connection_class, **options), self._guard)
        self._gets: Batches[str, bytes | None] = Batches(self._get_all, most=MOST_AT_ONCE)
        POOL_IN_USE.set_function(lambda: self._guard.in_use)
        POOL_SIZE.set(settings.pool_size)

    @property
    def up(self) -> bool:
        """Whether the server answers, as far as is known."""
        return not self._guard.down

    def key(self, *parts: str) -> str:
        """Return the name of a key: the prefix and the parts, colons between them."""
        return ":".join([self._prefix, *parts] if self._prefix else parts)

    async def get(self, key: str) -> bytes | None:
        """Return a key's value, or None: as GET, in one round trip with all who ask at the same time."""
        return await self._gets.ask(key)

    async def _get_all(self, keys: list[str]) -> list[bytes | None]:
        values: list[bytes | None] = await self.client.execute_command("MGET", *keys)
        return values

    async def start(self) -> None:
        """Try to reach the server; one that is down may come later.

        Raises:
            StartError: where the server refuses the credentials.
        """
        try:
            await self.client.ping()
        except AuthenticationError as error:
            raise StartError("Redis refuses the user or the password: correct REDIS_URL") from error
        except RedisError as error:
            log.get().warning("redis.unreachable", reason=type(error).__name__)

    async def check(self) -> None:
        """Raise where the server does not answer."""
        await self._ping()

    async def stop(self) -> None:
        """Close the connections."""
        await self._guard.close()
        for client in (self.client, self._prober):
            await client.connection_pool.disconnect()

    async def _ping(self) -> None:
        async with self._probing:
            await self._prober.ping()


@contextmanager
def needed() -> Iterator[None]:
    """Answer with 503 where what is done inside fails because of Redis: the outage policy of what has no other."""
    try:
        yield
    except RedisError as error:
        log.get().warning("redis.needed", reason=type(error).__name__)
        raise Unavailable("Something that this needs is down: ask again.", headers={"Retry-After": "1"}) from error


def _connections(url: SecretUrl) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """Return class and arguments of the connections to `url`."""
    # The client has the time-out: one around a whole command is cheaper, and tighter, than one for each of its parts.
    options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": None, "driver_info": None}
    if url == MEMORY_URL:
        return _embedded(options)
    try:
        parsed: dict[str, Any] = dict(parse_url(url.get_secret_value()))
    except ValueError as error:
        raise StartError("REDIS_URL cannot be read: write redis://[user:password@]host:6379/0") from error
    connection_class = parsed.pop("connection_class", redis.asyncio.Connection)
    return connection_class, options | parsed


def _embedded(options: dict[str, Any]) -> tuple[type[AbstractConnection], dict[str, Any]]:
    from fakeredis import FakeServer
    from fakeredis.aioredis import FakeAsyncRedisConnection

    server = FakeServer(version=(7,))
    return FakeAsyncRedisConnection, options | {"server": server}
