"""Rate limits: the sliding window, what all replicas share, the outage policies, the door for HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import Depends
from hypothesis import given
from hypothesis import strategies as st
from marty_lib import App, HttpSettings, RateLimited, Section, ServiceSettings, SettingsError, create_api, settings
from marty_lib.ratelimit import Limit, Outage, RateLimiter, Rule, conclude, decide, parse
from marty_lib.ratelimit_http import by_address, limit_requests, limited
from marty_lib.redis import Redis
from prometheus_client import REGISTRY

from .redis_kit import connected

HOUR = Rule("reads", "3/hour")


class Limits(Section):
    reads: Limit = "100/minute"


class Settings(ServiceSettings):
    ratelimit: Limits = Limits()


class Clock:
    def __init__(self) -> None:
        self.now = 3_600_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def local(opened: AsyncExitStack, free_port: int, clock: Clock) -> RateLimiter:
    """A limiter without Redis."""
    return RateLimiter(connected(opened, f"redis://127.0.0.1:{free_port}"), clock=clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def counted(rule: str, verdict: str, by: str) -> float:
    labels = {"rule": rule, "verdict": verdict, "by": by}
    return REGISTRY.get_sample_value("ratelimit_checks_total", labels) or 0.0


@pytest.mark.parametrize(
    ("limit", "meaning"),
    [("1/second", (1, 1)), ("100/minute", (100, 60)), ("10/5 seconds", (10, 5)), ("9/2days", (9, 172_800))],
)
def test_a_limit_is_read(limit: str, meaning: tuple[int, int]) -> None:
    assert parse(limit) == meaning


@pytest.mark.parametrize("limit", ["", "0/minute", "-1/minute", "10", "10/fortnight", "ten/minute", "1/0 seconds"])
def test_a_limit_that_cannot_be_read_is_refused_by_the_name_of_its_setting(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATELIMIT_READS", limit)
    with pytest.raises(SettingsError, match="100/minute") as caught:
        settings.load(Settings)
    assert [name for name, _ in caught.value.wrong] == ["RATELIMIT_READS"]


async def test_a_client_gets_as_many_as_the_limit_says(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    verdicts = [await limiter.check(HOUR, "ada") for _ in range(5)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.remaining for verdict in verdicts] == [2, 1, 0, 0, 0]
    assert (await limiter.check(HOUR, "bob")).allowed
    assert (await limiter.check(Rule("writes", "3/hour"), "ada")).allowed


async def test_replicas_share_a_limit(redis: Redis) -> None:
    replicas = [RateLimiter(redis) for _ in range(2)]
    verdicts = [await replicas[number % 2].check(HOUR, "ada") for number in range(4)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False]


async def test_requests_at_the_same_time_are_counted_one_by_one(redis: Redis) -> None:
    limiter, rule = RateLimiter(redis), Rule("reads", "300/hour")
    verdicts = await asyncio.gather(*(limiter.check(rule, f"client {number % 2}") for number in range(1000)))
    assert sum(verdict.allowed for verdict in verdicts) == 600


async def test_those_who_ask_together_share_round_trips(redis: Redis) -> None:
    before = REGISTRY.get_sample_value("redis_command_duration_seconds_count", {"command": "EVALSHA"}) or 0.0
    limiter = RateLimiter(redis)
    await asyncio.gather(*(limiter.check(HOUR, str(number)) for number in range(100)))
    after = REGISTRY.get_sample_value("redis_command_duration_seconds_count", {"command": "EVALSHA"}) or 0.0
    assert after - before <= 3


async def test_a_dear_request_costs_more(redis: Redis) -> None:
    limiter = RateLimiter(redis)
    assert (await limiter.check(HOUR, "ada", cost=2)).remaining == 1
    assert not (await limiter.check(HOUR, "ada", cost=2)).allowed
    assert not (await limiter.check(HOUR, "eve", cost=4)).allowed


async def test_keys_expire(redis: Redis) -> None:
    await RateLimiter(redis).check(HOUR, "ada")
    assert 0 < await redis.client.ttl("ratelimit:reads:ada") <= 7200


async def test_a_refusal_says_when_to_come_back(redis: Redis) -> None:
    limiter, rule = RateLimiter(redis), Rule("reads", "1/hour")
    (await limiter.check(rule, "ada")).enforce()
    verdict = await limiter.check(rule, "ada")
    with pytest.raises(RateLimited) as caught:
        verdict.enforce()
    assert caught.value.headers["RateLimit-Policy"] == '"reads";q=1;w=3600'
    assert caught.value.headers["RateLimit"].startswith('"reads";r=0;t=')
    assert 0 < int(caught.value.headers["Retry-After"]) <= 7200


async def test_the_window_slides(local: RateLimiter, clock: Clock) -> None:
    rule = Rule("reads", "4/hour")
    for _ in range(4):
        assert (await local.check(rule, "ada")).allowed
    clock.now += 3600  # the four count in full at the begin of the next window
    assert not (await local.check(rule, "ada")).allowed
    clock.now += 1800  # and by half in its middle
    assert [(await local.check(rule, "ada")).allowed for _ in range(3)] == [True, True, False]
    clock.now += 7200
    assert (await local.check(rule, "ada")).remaining == 3


@given(
    quota=st.integers(1, 20),
    before=st.integers(0, 20),
    current=st.integers(0, 20),
    cost=st.integers(1, 5),
    now=st.floats(60, 10_000),
)
def test_who_waits_as_long_as_told_is_let_in(quota: int, before: int, current: int, cost: int, now: float) -> None:
    rule = Rule("reads", f"{quota}/minute")
    window, (before, current), share = decide((int(now // 60), before, current), now, 60)
    allowed = before * share + current + cost <= quota
    verdict = conclude(rule, allowed, before, current, share, cost)
    assert allowed == (verdict.retry_after == 0)
    later = now + verdict.retry_after + 1e-3
    _, (then_before, then_current), then_share = decide((window, before, current), later, 60)
    assert cost > quota or then_before * then_share + then_current + cost <= quota


@pytest.mark.parametrize(
    ("outage", "allowed"), [("local", [True, True, True, False]), ("allow", [True] * 4), ("deny", [False] * 4)]
)
async def test_each_rule_has_its_outage_policy(local: RateLimiter, outage: Outage, allowed: list[bool]) -> None:
    rule = Rule(f"during-{outage}", "3/hour", outage=outage)
    verdicts = [await local.check(rule, "ada") for _ in range(4)]
    assert [verdict.allowed for verdict in verdicts] == allowed
    assert counted(rule.name, "allowed", outage) == sum(allowed)
    assert counted(rule.name, "refused", outage) == 4 - sum(allowed)


async def test_after_an_outage_all_count_together_again(opened: AsyncExitStack, redis_server: Any, soon: Any) -> None:
    redis = connected(opened, redis_server.url, timeout=2.0)
    limiter, rule = RateLimiter(redis), Rule("outlived", "3/hour", outage="deny")
    assert (await limiter.check(rule, "ada")).allowed
    redis_server.kill()
    assert not (await limiter.check(rule, "ada")).allowed
    redis_server.start()
    await soon(lambda: redis.up)
    assert (await limiter.check(rule, "ada")).remaining == 1
    assert counted("outlived", "allowed", "redis") == 2


def limited_api(make_app: Callable[..., App], limiter: RateLimiter, rule: Rule | None) -> Any:
    api = create_api(make_app(), HttpSettings(), title="Orders")
    limit_requests(api, limiter, lambda scope: rule if scope["path"] != "/free" else None, who=by_address())

    @api.get("/limited")
    @api.get("/free")
    async def answer() -> str:
        return "ok"

    return api


async def test_refused_requests_get_a_problem(
    make_app: Callable[..., App], client: Callable[[Any], Any], redis: Redis
) -> None:
    asking = client(limited_api(make_app, RateLimiter(redis), Rule("reads", "2/hour")))
    answers = [await asking.get("/limited") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=1", "r=0", "r=0"]
    assert answers[0].headers["ratelimit-policy"] == '"reads";q=2;w=3600'
    assert "retry-after" not in answers[0].headers
    assert answers[2].headers["retry-after"]
    assert answers[2].headers["content-type"] == "application/problem+json"
    assert answers[2].json()["code"] == "rate-limited"
    assert answers[2].json()["request_id"] == answers[2].headers["x-request-id"]


async def test_what_has_no_rule_is_not_limited(
    make_app: Callable[..., App], client: Callable[[Any], Any], redis: Redis
) -> None:
    asking = client(limited_api(make_app, RateLimiter(redis), Rule("reads", "1/hour")))
    answers = [await asking.get("/free") for _ in range(3)]
    assert all(answer.status_code == 200 and "ratelimit" not in answer.headers for answer in answers)


async def test_a_route_may_have_a_limit_of_its_own(
    make_app: Callable[..., App], client: Callable[[Any], Any], redis: Redis
) -> None:
    api = create_api(make_app(), HttpSettings(), title="Orders")
    rule = Rule("login", "1/hour")
    by_user = limited(RateLimiter(redis), rule, lambda request: request.query_params["user"])

    @api.get("/login", dependencies=[Depends(by_user)])
    async def login() -> str:
        return "ok"

    asking = client(api)
    answers = [await asking.get(f"/login?user={user}") for user in ("ada", "bob", "ada")]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit"].startswith('"login";r=0')


@pytest.mark.parametrize(
    ("trusted", "forwarded", "expected"),
    [
        (0, ["6.6.6.6"], "10.0.0.1"),
        (1, ["1.2.3.4"], "1.2.3.4"),
        (1, ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (2, ["6.6.6.6, 1.2.3.4", "10.0.0.9"], "1.2.3.4"),
        (2, ["1.2.3.4"], "10.0.0.1"),
        (1, [], "10.0.0.1"),
        (1, ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (1, ["a:b"], "a:b"),
    ],
)
def test_the_client_is_who_the_trusted_proxies_saw(trusted: int, forwarded: list[str], expected: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert by_address(trusted)({"client": ("10.0.0.1", 1), "headers": headers}) == expected


def test_a_client_without_address_is_one_client() -> None:
    assert by_address()({"client": None, "headers": []}) == "unknown"


def test_a_rule_whose_limit_or_name_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="100/minute"):
        Rule("reads", "often")
    with pytest.raises(ValueError, match="small letters"):
        Rule('reads";q=1', "1/minute")
