"""The rendered service's routes in the service's stack, with a rate limit on Redis that counts every request."""

import os
from typing import TYPE_CHECKING

from fastapi import APIRouter
from marty_lib.ratelimit import RateLimiter, Rule
from marty_lib.ratelimit_http import by_address, limit_requests
from marty_lib.redis import Redis, RedisSettings
from marty_lib.settings import SecretUrl
from order_service.api.orders import order_routes
from order_service.domain.service import OrderService
from order_service.storage.memory import InMemoryOrders

from tests.bench.apps.serving import serve_stack

if TYPE_CHECKING:
    from fastapi import FastAPI
    from marty_lib import App

LIMIT = "999999999/hour"


def routes(_: "App") -> APIRouter:
    """Return the service's own."""
    found: APIRouter = order_routes(OrderService(InMemoryOrders()))
    return found


def limit(app: "App", api: "FastAPI") -> None:
    """Limit all requests, for each address."""
    # A loaded machine must not look like an outage, in which each process limits by itself.
    redis = app.add(Redis(RedisSettings(url=SecretUrl(os.environ["REDIS_URL"]), timeout=5)))
    rule = Rule("bench", LIMIT)
    limit_requests(api, RateLimiter(redis), lambda _: rule, who=by_address())


if __name__ == "__main__":
    serve_stack(routes, limit)
