"""The figures as text, and their place in docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from .environment import ROOT
from .rendering import Times

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
SHOWN = (
    "asgi-correlation-id",
    "fastapi",
    "opentelemetry-instrumentation-fastapi",
    "opentelemetry-sdk",
    "prometheus-fastapi-instrumentator",
    "pydantic",
    "slowapi",
    "starlette",
    "uvicorn",
    "uvloop",
)
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
HEAD = """\
| | requests/s | of bare | CPU, us a request | p50, ms | p99, ms | memory, MB | more than bare, MB |
|---|---|---|---|---|---|---|---|
"""


@dataclass
class Figures:
    """One row's figures: of each round, and its memory."""

    name: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    memory: float = 0.0

    def middle(self, what: str) -> float:
        """Return the median over the rounds."""
        return median(seen[what] for seen in self.rounds)

    def total(self, what: str) -> float:
        """Return the mean over all requests."""
        return sum(seen[what] * seen["requests"] for seen in self.rounds) / sum(
            seen["requests"] for seen in self.rounds
        )

    def ratios(self, other: Figures) -> list[float]:
        """Return the requests per second as shares of another row's, round by round."""
        return [
            ours["per_second"] / theirs["per_second"] for ours, theirs in zip(self.rounds, other.rounds, strict=True)
        ]


def spread(values: list[float], form: str = ".2f") -> str:
    """Return the median, the least and the most."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(rows: list[Figures]) -> str:
    """Return the table; the first row is the yardstick."""
    bare = rows[0]
    return HEAD + "".join(
        f"| {row.name} | {row.middle('per_second'):,.0f} | {spread(row.ratios(bare))} | {row.total('cpu'):.0f} "
        f"| {row.middle('p50'):.1f} | {row.middle('p99'):.1f} | {row.memory:.0f} | {row.memory - bare.memory:.0f} |\n"
        for row in rows
    )


def summary(rows: list[Figures], rendering: Times) -> str:
    """Return the table and the goals in sentences."""
    bare, service, _, assembly = rows
    cpu = bare.total("cpu") / service.total("cpu"), assembly.total("cpu") / service.total("cpu")
    busiest = max(seen["client_share"] for row in rows for seen in row.rounds)
    return (
        f"{table(rows)}\n"
        f"- The service reaches {spread(service.ratios(bare))} of bare FastAPI; the goal is 0.70, then 0.85.\n"
        f"- It serves {spread(service.ratios(assembly), '.1f')} times what the usual assembly serves; the goal is 10.\n"
        f"- By CPU time, which other work on the machine disturbs less, that is {cpu[0]:.2f} and {cpu[1]:.1f}.\n"
        f"- It takes {service.memory - bare.memory:.0f} MB more than bare FastAPI; the limit is 25.\n"
        f"- {rendering.row()} The limit is 1.5 s.\n"
        f"- Median and, in brackets, least and most of {len(bare.rounds)} rounds. "
        f"The client used at most {busiest:.0%} of its CPU.\n"
    )


def provenance(command: str, python: Path) -> str:
    """Return what made the figures: command, date, class of machine, versions."""
    listed = subprocess.run([python, "-c", VERSIONS, *SHOWN], capture_output=True, text=True, check=True).stdout
    versions = sorted({**json.loads(listed), "copier": version("copier")}.items())
    return (
        f"`{command}` on {datetime.now(UTC).date()}; {os.cpu_count()} CPUs ({processor()}), {platform.system()}, "
        f"Python {platform.python_version()}.\n\n"
        f"Versions: {', '.join(f'{name} {found}' for name, found in versions)}.\n"
    )


def processor() -> str:
    """Return the processor's family."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {platform.machine()}"


def write(text: str) -> None:
    """Put the figures into the page, in the place of the last ones."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
