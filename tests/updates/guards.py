"""What must hold between two states of the template, so that an update loses nothing. Each returns what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from migrations.answers import remapped
from migrations.carry import files, new_paths
from migrations.releases import Answer, Declaration, Drop
from tests.template.questions import Question, edges

HOW = "declare it in migrations/releases.py for the release to come"
# A program that renders services as another user would, elsewhere and ten years later.
ELSEWHERE = """
import datetime, json, os, platform, socket, sys, time
now, ten_years = time.time, 10 * 365.25 * 86400
time.time = lambda: now() + ten_years
real = datetime.datetime
class Later(real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)
datetime.datetime = Later
socket.gethostname = platform.node = lambda: "elsewhere"
from copier import run_copy
for template, folder, answers in json.load(sys.stdin):
    run_copy(template, folder, answers, defaults=True, quiet=True, unsafe=True)
"""


def undeclared(old: Path, new: Path, declared: Iterable[Declaration], package: str) -> list[str]:
    """Return the files of a render that a newer one has elsewhere or no more, and that no release declares."""
    declared = list(declared)
    new_path = new_paths(declared, package, package)
    drops = [each.path.format(package=package) for each in declared if isinstance(each, Drop)]
    wrong = []
    for path, moved in gone(old, new):
        told = new_path(path)
        if told != path and (new / told).exists():
            continue
        if not any(path == drop or path.startswith(f"{drop}/") for drop in drops):
            line = f"Rename({path!r}, {moved!r})" if moved else f"Drop({path!r})"
            wrong.append(f"{path} is {f'{moved} now' if moved else 'gone'}: {HOW}: {line}")
    return wrong


def gone(old: Path, new: Path) -> list[tuple[str, str]]:
    """Return each file that only the old tree has, and where Git finds it in the new one, or ''."""
    command = ["git", "diff", "--no-index", "--no-ext-diff", "-M", "-l0", "--diff-filter=RD", "--name-status", "-z"]
    ended = subprocess.run([*command, str(old), str(new)], capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    fields, found = iter(ended.stdout.split("\0")[:-1]), []
    for status in fields:
        path = str(Path("/", next(fields)).relative_to(old))
        moved = str(Path("/", next(fields)).relative_to(new)) if status.startswith("R") else ""
        found.append((path, moved))
    return found


def lost_answers(
    old: Mapping[str, Question], new: Mapping[str, Question], declared: Iterable[Declaration]
) -> list[str]:
    """Return the answers that an old template took, and that the new one neither takes nor maps to one it does."""
    declared = list(declared)
    known = {each.question for each in declared if isinstance(each, Answer)}
    wrong = []
    for name, answers in edges(dict(old)).items():
        if name not in new and name not in known:
            wrong.append(f"{name} is asked no more: {HOW}: Answer({name!r}, to=...)")
            continue
        for answer in answers:
            for now, value in remapped({name: answer}, declared).items():
                if now in new and not new[now].accepts(value):
                    wrong.append(f"{name}: {answer!r} is no answer any more: {HOW}: Answer({name!r}, {{...}})")
    return wrong


def rendered_elsewhere(jobs: Iterable[tuple[Path, Path, Mapping[str, Any]]], home: Path) -> None:
    """Render each template into a folder with answers: at another time, as somebody else, with another locale."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "SYSTEMROOT", "TMPDIR")}
    environment |= {"HOME": str(home), "USER": "eve", "LOGNAME": "eve", "TZ": "Pacific/Kiritimati", "LANG": "C"}
    environment |= {"LC_ALL": "C", "PYTHONHASHSEED": "4711", "GIT_CONFIG_GLOBAL": os.devnull}
    told = json.dumps([(str(template), str(folder), answers) for template, folder, answers in jobs])
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE]
    subprocess.run(command, input=told, text=True, cwd=home, env=environment, check=True)


def differing(one: Path, other: Path) -> list[str]:
    """Return the files that two renders do not have alike, Git's own aside."""
    names = {name for name in files(one) | files(other) if not name.startswith(".git/")}
    return sorted(
        name
        for name in names
        if not ((one / name).is_file() and (other / name).is_file())
        or (one / name).read_bytes() != (other / name).read_bytes()
    )
