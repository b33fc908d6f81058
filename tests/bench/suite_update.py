"""What it takes to render a service of the largest kind, to preview an update of it, and to make the update."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from . import report
from .environment import ANSWERS, GIT, commit, copy, run
from .plan import Plan
from .report import spread
from .servers import step
from .setting import Setting

KIND = "auth"
PYTHON = (sys.executable, "-W", "ignore", "-m")
COPIER_UPDATE = "copier update"
COMMANDS = {
    COPIER_UPDATE: (*PYTHON, "copier", "update", "--trust", "--defaults", "--quiet"),
    "marty preview": (*PYTHON, "marty_lib.cli", "preview", "--trust"),
    "marty update": (*PYTHON, "marty_lib.cli", "update", "--trust"),
}
LIMITS = {"copier copy": 1.5, "marty preview": 4.0, "marty update": 4.0}
HEAD = """\
| | seconds | CPU, seconds | CPU, of copier update | limit, seconds |
|---|---|---|---|---|
"""


class Took(NamedTuple):
    """What one run of a command took, its children included."""

    seconds: float
    cpu: float


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    folder = setting.made("update")
    template = setting.template
    step(f"Rendering and updating a service of the kind {KIND} {plan.renders + 1} times")
    took: dict[str, list[Took]] = {"copier copy": [], **{name: [] for name in COMMANDS}}
    release(template, "v1.0.0")
    service = render(template, folder / "service")
    for number in range(plan.renders + 1):
        took["copier copy"].append(timed_copy(template, folder / f"copy-{number}"))
    release(template, "v2.0.0")
    for number in range(plan.renders + 1):
        for name, command in COMMANDS.items():
            target = shutil.copytree(service, folder / f"{name}-{number}", symlinks=True)
            took[name].append(timed(*command, folder=target))
    lines = [row(name, runs[1:], took[COPIER_UPDATE][1:]) for name, runs in took.items()]
    runs = f"- Median and, in brackets, least and most of {plan.renders} runs by turns, after one of each.\n"
    made_by = report.provenance("update", Path(sys.executable), ("copier", "typer"))
    return f"{HEAD}{''.join(lines)}\n{runs}\n{made_by}"


def release(template: Path, tag: str) -> None:
    """Change a file that every service has, and tag that."""
    with (template / "template/README.md.jinja").open("a") as page:
        page.write(f"\nRelease {tag}.\n")
    run(*GIT, "commit", "--quiet", "--all", "--message", tag, folder=template)
    run(*GIT, "tag", tag, folder=template)


def render(template: Path, service: Path) -> Path:
    """Render a service, and commit it."""
    copy(template, service, ANSWERS | {"service_kind": KIND, "mesh": "istio"})
    commit(service)
    return service


def timed_copy(template: Path, target: Path) -> Took:
    """Render, and return what it took."""
    began, before = time.perf_counter(), children()
    copy(template, target, ANSWERS | {"service_kind": KIND, "mesh": "istio"})
    return Took(time.perf_counter() - began, children() - before)


def timed(*command: str, folder: Path) -> Took:
    """Run a command in a folder, and return what it took."""
    began, before = time.perf_counter(), children()
    # Where the machine writes no bytecode, each import would compile.
    run(*command, folder=folder, variables={"PYTHONDONTWRITEBYTECODE": ""})
    return Took(time.perf_counter() - began, children() - before)


def children() -> float:
    """Return the CPU seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(name: str, runs: list[Took], of: list[Took]) -> str:
    """Return a line of the table."""
    ratios = [ours.cpu / theirs.cpu for ours, theirs in zip(runs, of, strict=True)]
    return (
        f"| {name} | {spread([each.seconds for each in runs])} | {median(each.cpu for each in runs):.2f} "
        f"| {spread(ratios)} | {LIMITS.get(name, '')} |\n"
    )
