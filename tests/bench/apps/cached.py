"""A value read from Redis: `bare` by redis-py on bare FastAPI, `stack` so in a service, `service` by its cache."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter
from pydantic import BaseModel

from tests.bench.apps.serving import serve_bare, serve_stack

if TYPE_CHECKING:
    from marty_lib import App

URL = os.environ["REDIS_URL"]
KEY = "bench:order:1"


class Order(BaseModel):
    """What is read and answered."""

    id: int
    customer: str
    item: str
    quantity: int


ORDER = Order(id=1, customer="ada", item="analytical engine", quantity=1)


def routes(read: Callable[[int], Awaitable[Order]]) -> APIRouter:
    """Return the route; `read` finds the order."""
    router = APIRouter()

    @router.get("/orders/{number}", response_model=Order)
    async def answer(number: int) -> Order:
        return await read(number)

    return router


def by_client() -> APIRouter:
    """Return the route on a client of redis-py with its defaults."""
    import redis
    import redis.asyncio

    with redis.Redis.from_url(URL) as writer:
        writer.set(KEY, ORDER.model_dump_json())
    client = redis.asyncio.Redis.from_url(URL)

    async def read(number: int) -> Order:
        return Order.model_validate_json(await client.get(f"bench:order:{number}") or "")

    return routes(read)


def by_cache(app: "App") -> APIRouter:
    """Return the route on the library's cache, which may ask its source once."""
    from marty_lib.cache import Cache, CachePolicy
    from marty_lib.redis import Redis, RedisSettings
    from marty_lib.settings import SecretUrl

    # A loaded machine must not look like an outage.
    redis = app.add(Redis(RedisSettings(url=SecretUrl(URL), timeout=5)))
    cache = app.add(Cache(redis, "orders", Order, CachePolicy(ttl=3600)))
    source = [ORDER]

    async def load() -> Order:
        return source.pop()

    async def read(number: int) -> Order:
        found = await cache.get(str(number), load)
        assert found is not None
        return found

    return routes(read)


if __name__ == "__main__":
    {
        "bare": lambda: serve_bare(by_client()),
        "stack": lambda: serve_stack(lambda _: by_client()),
        "service": lambda: serve_stack(by_cache),
    }[sys.argv.pop(1)]()
