"""Rate limits that all replicas share: a sliding window in Redis, one round trip for all who ask at the same time.

    reads = Rule("reads", "100/minute", outage="local")
    (await limiter.check(reads, client)).enforce()

Each rule declares what holds while Redis is down: its limit for each replica by itself, everything, or nothing. Nothing
here knows HTTP or gRPC: `marty_lib.ratelimit_http` is the one door, an interceptor that calls `check` the other.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from prometheus_client import Counter
from pydantic import AfterValidator
from redis.exceptions import RedisError

from marty_lib._batches import Batches
from marty_lib.errors import RateLimited
from marty_lib.redis import Redis

CHECKS = Counter(
    "ratelimit_checks",
    "Requests that a rule was asked about, by verdict and by who gave it: redis, or the rule's outage policy.",
    ["rule", "verdict", "by"],
)
PERIODS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
MOST_AT_ONCE = 128
MOST_LOCAL = 100_000

_NAME = re.compile(r"[a-z0-9-]+")
_LIMIT = re.compile(r"([1-9][0-9]{0,8})/(?:([1-9][0-9]{0,4}) ?)?(second|minute|hour|day)s?")

# The requests of the window before count by the share of it that the sliding window still covers, as nginx's and
# Cloudflare's limits do; a client costs one key of three numbers. `decide` is the same in Python.
# All numbers of a batch are one text each way, for each argument and each answer costs its own time in Python.
_DECIDE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local numbers, answers = string.gmatch(ARGV[1], '%d+'), {}
for i, key in ipairs(KEYS) do
  local limit, period, cost = tonumber(numbers()), tonumber(numbers()), tonumber(numbers())
  local window = math.floor(now / period)
  local at, before, current = 0, 0, 0
  local state = redis.call('GET', key)
  if state then
    at, before, current = string.match(state, '(%d+) (%d+) (%d+)')
    at, before, current = tonumber(at), tonumber(before), tonumber(current)
  end
  if at == window - 1 then before, current = current, 0 elseif at ~= window then before, current = 0, 0 end
  local share = window + 1 - now / period
  local allowed = before * share + current + cost <= limit
  if allowed then
    current = current + cost
    redis.call('SET', key, string.format('%d %d %d', window, before, current), 'EX', period * 2)
  end
  answers[i] = string.format('%d %d %d %.6f', allowed and 1 or 0, before, current, share)
end
return table.concat(answers, ',')
"""

Outage = Literal["local", "allow", "deny"]


class Verdict(NamedTuple):
    """What a rule says to one request.

    Args:
        rule: that was asked.
        allowed: whether the request may be served.
        remaining: further requests that would be allowed now.
        reset: seconds until the present window ends.
        retry_after: seconds after which the same request would be allowed, if nobody asks meanwhile; 0 where it is.
    """

    rule: Rule
    allowed: bool
    remaining: int
    reset: float
    retry_after: float

    @property
    def state(self) -> str:
        """The field RateLimit."""
        return f'"{self.rule.name}";r={self.remaining};t={math.ceil(self.reset)}'

    def headers(self) -> dict[str, str]:
        """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers), and Retry-After if refused."""
        found = {"RateLimit-Policy": self.rule.policy, "RateLimit": self.state}
        return found if self.allowed else found | {"Retry-After": str(max(1, math.ceil(self.retry_after)))}

    def enforce(self) -> Verdict:
        """Return the verdict where the request is allowed.

        Raises:
            RateLimited: where it is not.
        """
        if self.allowed:
            return self
        raise RateLimited("Too many requests: ask again later.", headers=self.headers())


@dataclass(frozen=True)
class Rule:
    """A limit.

    Args:
        name: in keys, headers and metrics: small letters, digits, hyphens.
        limit: such as `100/minute` or `10/5 seconds`.
        outage: while Redis is down: `local` has each replica limit by itself, `allow` lets all pass, `deny` none.

    Raises:
        ValueError: where name or limit are written in another way.
    """

    name: str
    limit: str
    outage: Outage = "local"
    quota: int = field(init=False)
    period: int = field(init=False)
    policy: str = field(init=False)
    """The field RateLimit-Policy."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a rule: use small letters, digits and hyphens")
        quota, period = parse(self.limit)
        object.__setattr__(self, "quota", quota)
        object.__setattr__(self, "period", period)
        object.__setattr__(self, "policy", f'"{self.name}";q={quota};w={period}')


def parse(limit: str) -> tuple[int, int]:
    """Return how many requests a limit such as `100/minute` allows, and in how many seconds.

    Raises:
        ValueError: where it is written in another way.
    """
    found = _LIMIT.fullmatch(limit)
    if found is None:
        raise ValueError("must be a limit such as 100/minute or 10/5 seconds")
    quota, count, unit = found.groups()
    return int(quota), int(count or 1) * PERIODS[unit]


def _checked(limit: str) -> str:
    parse(limit)
    return limit


Limit = Annotated[str, AfterValidator(_checked)]
"""The type of a setting that holds a limit."""


class RateLimiter:
    """Asks rules.

    Args:
        redis: where all replicas count.
        clock: seconds since 1970, for the outage policy `local`.
    """

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._key = redis.key
        self._clock = clock
        self._script = redis.client.register_script(_DECIDE)
        self._batches: Batches[tuple[str, str], bytes] = Batches(self._ask, most=MOST_AT_ONCE)
        self._local: dict[str, tuple[int, int, int]] = {}
        self._counters: dict[tuple[str, bool, str], Counter] = {}

    async def check(self, rule: Rule, key: str, *, cost: int = 1) -> Verdict:
        """Count a request and return the verdict; never raises because of Redis.

        Args:
            rule: to ask.
            key: who is limited, such as an address or a user.
            cost: of the request; the quota holds so many.
        """
        name = self._key("ratelimit", rule.name, key)
        by = "redis"
        try:
            answer = await self._batches.ask((name, f"{rule.quota} {rule.period} {cost}"))
            allowed, before, current, share = answer.split()
            verdict = conclude(rule, int(allowed) == 1, int(before), int(current), float(share), cost)
        except RedisError:
            by = rule.outage
            verdict = self._without_redis(rule, name, cost)
        self._count(rule.name, verdict.allowed, by)
        return verdict

    async def _ask(self, questions: list[tuple[str, str]]) -> list[bytes]:
        answers: bytes = await self._script(
            keys=[name for name, _ in questions], args=[" ".join([numbers for _, numbers in questions])]
        )
        return answers.split(b",")

    def _without_redis(self, rule: Rule, name: str, cost: int) -> Verdict:
        if rule.outage == "local":
            return self._decide(rule, name, cost)
        allowed = rule.outage == "allow"
        return Verdict(rule, allowed, rule.quota if allowed else 0, rule.period, 0.0 if allowed else 1.0)

    def _decide(self, rule: Rule, name: str, cost: int) -> Verdict:
        window, state, share = decide(self._local.get(name), self._clock(), rule.period)
        before, current = state
        allowed = before * share + current + cost <= rule.quota
        if allowed:
            current += cost
            if len(self._local) >= MOST_LOCAL:
                self._local.clear()  # rather too generous once than without bounds
            self._local[name] = (window, before, current)
        return conclude(rule, allowed, before, current, share, cost)

    def _count(self, rule: str, allowed: bool, by: str) -> None:
        key = (rule, allowed, by)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = CHECKS.labels(rule, "allowed" if allowed else "refused", by)
        counter.inc()


def decide(state: tuple[int, int, int] | None, now: float, period: int) -> tuple[int, tuple[int, int], float]:
    """Return the present window, the requests in the one before and in it, and the share of it that is left."""
    window = math.floor(now / period)
    at, before, current = state or (0, 0, 0)
    if at == window - 1:
        before, current = current, 0
    elif at != window:
        before, current = 0, 0
    return window, (before, current), window + 1 - now / period


def conclude(rule: Rule, allowed: bool, before: int, current: int, share: float, cost: int) -> Verdict:
    """Return the verdict that follows from the counts of both windows and the share of the present one that is left."""
    remaining = max(0, math.floor(rule.quota - before * share - current))
    retry = 0.0 if allowed else _retry(rule, before, current, share, cost)
    return Verdict(rule, allowed, remaining, share * rule.period, retry)


def _retry(rule: Rule, before: int, current: int, share: float, cost: int) -> float:
    room = rule.quota - cost
    if current <= room:  # as soon as the window before weighs less
        return (share - (room - current) / before) * rule.period
    # In the next window the present one weighs less and less.
    return (share + 1 - max(0, room) / max(1, current)) * rule.period
