"""What the tests of everything that stands on Redis share."""

from __future__ import annotations

from contextlib import AsyncExitStack

from marty_lib.redis import Redis, RedisSettings


def connected(opened: AsyncExitStack, url: str, timeout: float = 10.0, prefix: str = "") -> Redis:
    """Return a component that is closed after the test; a loaded machine is no outage for it."""
    redis = Redis(RedisSettings.model_validate({"url": url, "timeout": timeout, "prefix": prefix}))
    opened.push_async_callback(redis.stop)
    return redis
