"""Rate limits on HTTP: one ASGI class inside the stack for whole APIs, a dependency for what routes know better."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.middleware import Middleware

from marty_lib.ratelimit import RateLimiter, Rule

Choose = Callable[[Any], Rule | None]
Who = Callable[[Any], str]


def limit_requests(api: FastAPI, limiter: RateLimiter, choose: Choose, *, who: Who) -> None:
    """Ask a rule about each request before it is routed; refused ones are answered with 429.

    Args:
        api: whose requests are limited.
        limiter: asks the rules.
        choose: returns the rule for an ASGI scope (`scope["method"]`, `scope["path"]`), or None where there is none.
        who: returns whom the rule limits, from the scope; see `by_address`.
    """
    # The innermost: inside of the stack, which answers refusals with problems, logs and counts them.
    api.user_middleware.append(Middleware(RateLimit, limiter=limiter, choose=choose, who=who))


def limited(limiter: RateLimiter, rule: Rule, who: Callable[[Request], str]) -> Callable[..., Awaitable[None]]:
    """Return a dependency that asks a rule: for `Depends(...)` of one route, where only the route knows who it is."""

    async def ask(request: Request, response: Response) -> None:
        verdict = (await limiter.check(rule, who(request))).enforce()
        response.headers.update(verdict.headers())

    return ask


def by_address(trusted_proxies: int = 0) -> Who:
    """Return a function from a scope to the client's address; IPv6 addresses of one network are one client.

    Args:
        trusted_proxies: how many proxies stand in front of the service, each of which appends to X-Forwarded-For.
            What stands further left in it was written by the client itself.
    """

    def who(scope: Any) -> str:
        client = scope.get("client")
        address: str = client[0] if client else "unknown"
        if trusted_proxies:
            values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
            hops = [hop.strip() for hop in ",".join(values).split(",") if hop.strip()]
            address = hops[-trusted_proxies] if len(hops) >= trusted_proxies else address
        return _network(address) if ":" in address else address

    return who


class RateLimit:
    """The ASGI class of `limit_requests`."""

    def __init__(self, app: Any, *, limiter: RateLimiter, choose: Choose, who: Who) -> None:
        self.app = app
        self.limiter = limiter
        self.choose = choose
        self.who = who

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        rule = self.choose(scope) if scope["type"] == "http" else None
        if rule is None:
            await self.app(scope, receive, send)
            return
        verdict = (await self.limiter.check(rule, self.who(scope))).enforce()
        fields = ((b"ratelimit-policy", rule.policy.encode()), (b"ratelimit", verdict.state.encode()))

        async def with_fields(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        await self.app(scope, receive, with_fields)


def _network(address: str) -> str:
    """Return the /64 network of an IPv6 address: a client has all of it, and would be a new one with each request."""
    try:
        return str(ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
