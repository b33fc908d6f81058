"""What a cached read costs: a get of redis-py, and the library's cache, over the same endpoint."""

from __future__ import annotations

from . import report
from .plan import Plan
from .servers import SERVICE_LINE, Row, take_turns
from .setting import Setting

SHOWN = ("fastapi", "redis", "starlette", "uvicorn", "uvloop")
BODY = '{"id":1,"customer":"ada","item":"analytical engine","quantity":1}'
CLIENT = ("--path=/orders/1", f"--body={BODY}")


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    figures = take_turns(rows(setting.server("Redis").url), setting.python, setting.made("cache"), plan)
    goal = report.goal(figures, "cache", "get in the same service", 0.75)
    made_by = report.provenance("cache", setting.python, SHOWN)
    return f"{report.table(figures)}\n{goal}{report.turns(figures)}\n{made_by}"


def rows(url: str) -> list[Row]:
    """Return what is compared, the yardstick of the table first."""
    cached = ["-m", "tests.bench.apps.cached"]
    settings = {"HTTP_PORT": "{port}", "OPS_PORT": "0", "REDIS_URL": url}
    return [
        Row("get on bare FastAPI", [*cached, "bare", "{port}"], settings, client=CLIENT),
        Row("get in the same service", [*cached, "stack"], settings, SERVICE_LINE, client=CLIENT),
        Row("cache", [*cached, "service"], settings, SERVICE_LINE, client=CLIENT),
    ]
