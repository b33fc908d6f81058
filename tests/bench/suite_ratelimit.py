"""What a rate limit on Redis costs, against no limit and no stack at all: the routes and the load of the suite http."""

from __future__ import annotations

import redis

from . import report
from .environment import NAME
from .plan import Plan
from .report import Figures
from .servers import HERE, SERVICE_LINE, Row, take_turns
from .setting import Setting
from .suite_cache import SHOWN


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    url = setting.server("Redis").url
    figures = take_turns(rows(url), setting.python, setting.made("ratelimit"), plan)
    prove(url, figures[-1], plan)
    goal = report.goal(figures, "service with a rate limit", "bare FastAPI", 0.60)
    made_by = report.provenance("ratelimit", setting.python, SHOWN)
    return f"{report.table(figures)}\n{goal}{report.turns(figures)}\n{made_by}"


def rows(url: str) -> list[Row]:
    """Return what is compared, the yardstick first."""
    settings = {"HTTP_PORT": "{port}", "OPS_PORT": "0", "REDIS_URL": url}
    return [
        Row("bare FastAPI", [str(HERE / "bare.py"), "{port}"]),
        Row("service", ["-m", NAME.replace("-", "_")], settings, SERVICE_LINE),
        Row("service with a rate limit", ["-m", "tests.bench.apps.limited"], settings, SERVICE_LINE),
    ]


def prove(url: str, limited: Figures, plan: Plan) -> None:
    """Look that Redis has counted every request.

    Raises:
        SystemExit: where it has not.
    """
    with redis.Redis.from_url(url) as client:
        states = [str(client.get(key), "ascii").split() for key in client.scan_iter()]
    counted = sum(int(before) + int(now) for _, before, now in states)
    asked = sum(int(seen["served"]) for seen in limited.rounds) + plan.first
    if counted < asked:
        raise SystemExit(f"bench: {asked} requests were answered, but Redis has counted {counted}")
