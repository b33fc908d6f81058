"""What a service of each kind takes to import and in memory, against its frameworks and clients alone."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from extensions.kinds import KINDS

from . import report
from .environment import ROOT, run
from .plan import Plan
from .report import spread
from .servers import step
from .setting import Setting

# What a service with a feature would import without Marty; each has asyncio.
BARE = {
    "http": "fastapi, uvicorn",
    "grpc": "grpc.aio",
    "database": "sqlalchemy.ext.asyncio, asyncpg",
    "redis": "redis.asyncio",
    "broker": "aiokafka",
}
PROBE = """
import json, re, sys, time
began = time.perf_counter()
{statements}
seconds = time.perf_counter() - began
rollup = open("/proc/self/smaps_rollup").read()
kilobytes = int(re.search(r"^Rss:\\s+(\\d+) kB", rollup, re.MULTILINE)[1])
print(json.dumps({{"ms": seconds * 1000, "memory": kilobytes * 1024 / 1e6, "modules": len(sys.modules)}}))
"""
SERVICE = """
from {package}.app import create_app
from {package}.config import Settings
create_app(Settings())
"""
HEAD = """\
| kind | import, ms | bare, ms | of bare | memory, MB | bare, MB | more than bare, MB |
|---|---|---|---|---|---|---|
"""


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    lines = [line(setting, kind, plan.renders) for kind in kinds()]
    runs = (
        f"- Median and, in brackets, least and most of {plan.renders} starts, by turns with bare, after one of each.\n"
    )
    made_by = report.provenance("start", setting.python, ("fastapi", "pydantic", "pydantic-settings", "structlog"))
    return f"{HEAD}{''.join(lines)}\n{runs}\n{made_by}"


def kinds() -> list[str]:
    """Return the kinds that the template offers."""
    question = yaml.safe_load((ROOT / "copier.yml").read_text())["service_kind"]
    return list(question["choices"].values())


def line(setting: Setting, kind: str, starts: int) -> str:
    """Measure a kind; return its line."""
    step(f"Starting the kind {kind} {starts + 1} times, and what is bare as often")
    name = f"start-{kind}"
    setting.install(name, service_kind=kind)
    ours: list[dict[str, float]] = []
    bare: list[dict[str, float]] = []
    for _ in range(starts + 1):
        ours.append(probe(setting.python, SERVICE.format(package=name.replace("-", "_"))))
        bare.append(probe(setting.python, f"import {', '.join(['asyncio', *imports(kind)])}"))
    return row(kind, ours[1:], bare[1:])


def imports(kind: str) -> list[str]:
    """Return what a service of the kind would import without Marty."""
    return [modules for feature, modules in BARE.items() if feature in KINDS[kind]]


def probe(python: Path, statements: str) -> dict[str, float]:
    """Run the statements in a new process; return what they took."""
    # Where the machine writes no bytecode, each import would compile.
    said = run(python, "-c", PROBE.format(statements=statements), variables={"PYTHONDONTWRITEBYTECODE": ""})
    seen: dict[str, Any] = json.loads(said)
    return seen


def row(kind: str, ours: list[dict[str, float]], bare: list[dict[str, float]]) -> str:
    """Return a line of the table."""
    ratios = [our["ms"] / their["ms"] for our, their in zip(ours, bare, strict=True)]
    times = [median(seen["ms"] for seen in side) for side in (ours, bare)]
    memory = [median(seen["memory"] for seen in side) for side in (ours, bare)]
    return (
        f"| {kind} | {times[0]:.0f} | {times[1]:.0f} | {spread(ratios, '.1f')} "
        f"| {memory[0]:.0f} | {memory[1]:.0f} | {memory[0] - memory[1]:.0f} |\n"
    )
