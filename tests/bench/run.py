"""Measures what the stack of a rendered service costs: `make bench`, or `python -m tests.bench.run`.

Bare FastAPI, the rendered service and the usual assembly run side by side and take turns; see docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import environment, rendering, report, servers, sink
from .report import Figures


class Plan(NamedTuple):
    """How much is measured.

    Args:
        rounds: in which the servers take turns.
        seconds: of load on each server in each round.
        first: requests that each server answers before its memory is read, the same for all.
        renders: how often the template is rendered.
    """

    rounds: int = 20
    seconds: float = 0.8
    first: int = 5000
    renders: int = 7


COMMAND = "make bench BENCH_FLAGS=--write"
QUICK = Plan(rounds=2, seconds=0.4, first=500, renders=1)


def main() -> None:
    """Render, install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see only that everything runs; the figures mean nothing")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/benchmarks.md")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick gives no figures to write")
    if not sys.platform.startswith("linux"):
        sys.exit("bench: it reads /proc and pins processes to CPUs: run it on Linux")
    with tempfile.TemporaryDirectory(prefix="marty-bench-") as folder:
        text = measure(Path(folder), QUICK if options.quick else Plan())
    print(f"\n{text}", end="")
    if options.write:
        report.write(text)


def measure(folder: Path, plan: Plan) -> str:
    """Do everything in `folder`; return the report."""
    for name in ("template", "renders", "logs"):
        (folder / name).mkdir()
    step("Rendering the service and installing it beside the usual assembly")
    template = environment.export(folder / "template")
    environment.copy(template, folder / environment.NAME, environment.ANSWERS)
    python = environment.install(folder / "environment", folder / environment.NAME)
    step(f"Rendering {plan.renders + 1} times, and Copier's floor as often")
    times = rendering.measure(template, folder / "renders", runs=plan.renders)
    figures = load(python, folder / "logs", plan)
    return f"{report.summary(figures, times)}\n{report.provenance(COMMAND, python)}"


def load(python: Path, folder: Path, plan: Plan) -> list[Figures]:
    """Start the servers, have them take turns, and return what was seen."""
    step(f"Starting the servers, which take turns in {plan.rounds} rounds")
    with sink.running() as spans, servers.started(spans, python, folder) as running:
        figures = [Figures(server.row.name) for server in running]
        for server, row in zip(running, figures, strict=True):
            server.load(requests=plan.first)
            row.memory = server.memory()
        for _ in range(plan.rounds):
            for server, row in zip(running, figures, strict=True):
                row.rounds.append(server.load(seconds=plan.seconds))
    return figures


def step(text: str) -> None:
    """Say what happens now."""
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    # The temporary folder and the servers must not stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
