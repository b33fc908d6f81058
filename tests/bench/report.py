"""The figures as text, and their place in docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from .environment import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- {name}: begin -->\n", "<!-- {name}: end -->\n"
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
HEAD = """\
| | {unit} | of bare | CPU, us a request | p50, ms | p99, ms | memory, MB | more than bare, MB |
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


def table(rows: list[Figures], unit: str = "requests/s") -> str:
    """Return the table; the first row is the yardstick."""
    bare = rows[0]
    return HEAD.format(unit=unit) + "".join(
        f"| {row.name} | {row.middle('per_second'):,.0f} | {spread(row.ratios(bare))} | {row.total('cpu'):.0f} "
        f"| {row.middle('p50'):.1f} | {row.middle('p99'):.1f} | {row.memory:.0f} | {row.memory - bare.memory:.0f} |\n"
        for row in rows
    )


def goal(rows: list[Figures], name: str, of: str, least: float) -> str:
    """Return in a sentence how far a row comes, and how far it should."""
    ours, theirs = (next(row for row in rows if row.name == each) for each in (name, of))
    cpu = theirs.total("cpu") / ours.total("cpu")
    return (
        f"- {name[0].upper()}{name[1:]} reaches {spread(ours.ratios(theirs))} of {of}, {cpu:.2f} by CPU time; "
        f"the goal is {least:.2f}.\n"
    )


def turns(rows: list[Figures]) -> str:
    """Return how the figures came about."""
    busiest = max(seen["client_share"] for row in rows for seen in row.rounds)
    return (
        f"- Median and, in brackets, least and most of {len(rows[0].rounds)} rounds. "
        f"The client used at most {busiest:.0%} of its CPU.\n"
    )


def provenance(name: str, python: Path, shown: tuple[str, ...], **others: str) -> str:
    """Return what made the figures: command, date, class of machine, versions."""
    listed = subprocess.run([python, "-c", VERSIONS, *shown], capture_output=True, text=True, check=True).stdout
    versions = sorted({**json.loads(listed), **others}.items())
    command = f'make bench BENCH_FLAGS="--only {name} --write"'
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


def write(name: str, text: str) -> None:
    """Put the figures of a suite into the page, in the place of the last ones."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = PAGE.read_text().partition(begin)
    assert found, f"{PAGE.name} has no place for {name}"
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
