"""What `marty fleet update` takes a service, against `marty update` of one service alone; and the memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import psutil

from tests.conftest import ANSWERS
from tests.updates.history import IDENTITY, copier, git, kinds_of, older, tagged_clone

from . import report
from .environment import environment, run
from .plan import Plan
from .servers import CPUS, step
from .setting import Setting

KINDS = ("fastapi", "minimal", "database", "message-queue")
LIMIT = 1.3
LONE_RUNS = 3  # of each kind, before and after
MARTY = (sys.executable, "-W", "ignore", "-m", "marty_lib.cli")
HEAD = """\
| services | s a service | of lone / CPUs | CPU, s a service | of lone | CPUs others used | memory, MB | of all, MB |
|---|---|---|---|---|---|---|---|
"""


class Took(NamedTuple):
    """What a command has taken: seconds, of CPU time with all that it ran, and memory at its peak in MB.

    And how many CPUs were busy with other work meanwhile.
    """

    seconds: float
    cpu: float
    others: float
    memory: float
    total: float


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    history = tagged_clone(setting.made("fleet-template") / "marty")
    seeds = [seed(setting.made(f"fleet-{kind}") / "order-service", history, kind) for kind in offered()]
    runs = min(plan.renders, LONE_RUNS)
    before = [lone(setting, each, runs, "before") for each in seeds]
    fleets = {number: fleet(setting, seeds, number) for number in (plan.services // 10, plan.services)}
    after = [lone(setting, each, runs, "after") for each in seeds]
    alone = [Took(*map(median, zip(*(first + last), strict=True))) for first, last in zip(before, after, strict=True)]
    lines = [line("lone", shares(alone, len(seeds)), shares(alone, len(seeds)))]
    lines += [line(str(number), took, shares(alone, number)) for number, took in fleets.items()]
    text = (
        f"- {', '.join(offered())}, each at the oldest release that has it, with an edit of its owner's.\n"
        f"- The goal is at most {LIMIT} of a lone update over the CPUs ({len(CPUS)} here).\n"
        f"- A lone update is the median of {2 * runs} of each kind, half of them before the fleets and half after.\n"
        "- What others use of the CPUs is missing to the command: where they are busy, trust the CPU time.\n"
    )
    return f"{HEAD}{''.join(lines)}\n{text}\n{report.provenance('fleet', Path(sys.executable), ('copier', 'typer'))}"


def offered() -> dict[str, str]:
    """Return some kinds, and of each the oldest release that has it and whose template is not today's."""
    found: dict[str, str] = {}
    for version, commit in older().items():
        for kind in kinds_of(commit):
            if kind in KINDS:
                found.setdefault(kind, version)
    return found


def seed(folder: Path, history: Path, kind: str) -> Path:
    """Render a service of a kind, as its owner has it today."""
    step(f"Rendering {kind}")
    data = [f"--data={name}={value}" for name, value in {**ANSWERS, "service_kind": kind}.items()]
    flags = ("--trust", "--defaults", "--quiet", f"--vcs-ref=v{offered()[kind]}")
    ended = copier("copy", *flags, *data, str(history), str(folder), cwd=history)
    if ended.returncode:
        sys.exit(f"bench: {kind} does not render: {ended.stderr}")
    with (folder / "README.md").open("a") as readme:
        readme.write("\n## Ours\n\nCall the owner at night.\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=Render")
    return folder


def lone(setting: Setting, service: Path, runs: int, when: str) -> list[Took]:
    """Update copies of a service one by one; return what each took."""
    step(f"Updating {service.parent.name} alone {runs} times")
    copies = [clone(service, setting.folder / f"{when}-{service.parent.name}-{number}") for number in range(runs)]
    return [timed([*MARTY, "update", "--json", str(copy)]) for copy in copies]


def fleet(setting: Setting, seeds: Sequence[Path], number: int) -> Took:
    """Update a fleet; return what one service of it takes, and the whole's memory."""
    step(f"Updating {number} services")
    folder = setting.made(f"fleet-of-{number}")
    for index in range(number):
        clone(seeds[index % len(seeds)], folder / f"service-{index}")
    flags = ["--no-test", "--json", "--report", str(setting.folder / f"report-{number}")]
    took = timed([*MARTY, "fleet", "update", str(folder), *flags])
    counts = json.loads((setting.folder / f"report-{number}/report.json").read_text())["counts"]
    if counts["updated"] != number:
        sys.exit(f"bench: not every service was updated: {counts}")
    return took._replace(seconds=took.seconds / number, cpu=took.cpu / number)


def clone(service: Path, folder: Path) -> Path:
    """Copy a service with its repository."""
    run("git", "clone", "--quiet", service, folder)
    return folder


def timed(command: Sequence[str]) -> Took:
    """Run a command; return what it took.

    Raises:
        SystemExit: where it fails.
    """
    variables = environment(**IDENTITY, MARTY_TRUST="1")
    before, busy, began = os.times(), busy_seconds(), time.perf_counter()
    process = psutil.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    own = total = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            own = max(own, process.memory_info().rss)
            total = max(total, sum(rss(each) for each in (process, *process.children(recursive=True))))
        time.sleep(0.25)  # to look takes CPU time, too
    seconds, after, busy = time.perf_counter() - began, os.times(), busy_seconds() - busy
    if process.returncode:
        sys.exit(f"bench: {command[4:6]} ended with {process.returncode}: {process.stderr.read().decode()}")
    process.stderr.close()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(seconds, cpu, (busy - cpu) / seconds, own / 1e6, total / 1e6)


def busy_seconds() -> float:
    """Return the seconds that the machine's CPUs have worked."""
    spent = psutil.cpu_times()
    return float(sum(spent) - spent.idle - getattr(spent, "iowait", 0.0))


def rss(process: psutil.Process) -> int:
    """Return what is resident of a process, which may be gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def shares(alone: Sequence[Took], number: int) -> Took:
    """Return what a lone update takes, in the mean over the kinds as a fleet has them."""
    return Took(*map(mean, zip(*(alone[index % len(alone)] for index in range(number)), strict=True)))


def line(name: str, took: Took, alone: Took) -> str:
    """Return a line of the table."""
    ratio = "" if name == "lone" else f"{took.seconds / (alone.seconds / len(CPUS)):.2f}"
    return (
        f"| {name} | {took.seconds:.2f} | {ratio} | {took.cpu:.2f} | {took.cpu / alone.cpu:.2f} "
        f"| {took.others:.1f} | {took.memory:.0f} | {took.total:.0f} |\n"
    )
