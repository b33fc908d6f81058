"""What a read of one row costs: the same handler on bare SQLAlchemy, and on a unit of work of marty_lib.db."""

from __future__ import annotations

from tests.servers.postgresql import execute

from . import report
from .plan import Plan
from .servers import SERVICE_LINE, Row, take_turns
from .setting import Setting

SHOWN = ("asyncpg", "fastapi", "sqlalchemy", "starlette", "uvicorn", "uvloop")
BODY = '{"id":1,"customer":"ada","item":"analytical engine","quantity":1}'
TABLE = "CREATE TABLE bench_orders (id int PRIMARY KEY, customer text, item text, quantity int)"
ROW = "INSERT INTO bench_orders VALUES (1, 'ada', 'analytical engine', 1)"


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    url = setting.server("PostgreSQL").url
    execute(url, TABLE)
    execute(url, ROW)
    figures = take_turns(rows(url), setting.python, setting.made("database"), plan)
    goal = report.goal(figures, "service", "bare SQLAlchemy", 0.80)
    made_by = report.provenance("database", setting.python, SHOWN)
    return f"{report.table(figures)}\n{goal}{report.turns(figures)}\n{made_by}"


def rows(url: str) -> list[Row]:
    """Return what is compared, the yardstick first."""
    stored = ["-m", "tests.bench.apps.stored"]
    settings = {"HTTP_PORT": "{port}", "OPS_PORT": "0", "DATABASE_URL": url}
    client = ("--path=/orders/1", f"--body={BODY}")
    return [
        Row("bare SQLAlchemy", [*stored, "bare", "{port}"], settings, client=client),
        Row("its unit of work alone", [*stored, "unit", "{port}"], settings, client=client),
        Row("service", [*stored, "service"], settings, SERVICE_LINE, client=client),
    ]
