"""Which services are below some folders, and in which repositories."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from marty_lib._cli_fleet_processes import Failed, git

ANSWERS = ".copier-answers.yml"
# What Marty asks, and other templates do not.
OURS = {"service_name", "service_kind"}
SKIPPED = {"node_modules", "__pycache__", "site-packages"}


@dataclass(frozen=True)
class Service:
    """A service as it stands in its owner's work tree.

    Args:
        folder: absolute.
        version: of the template, as the answers have it: a tag, or what `git describe` made of a commit.
        source: the template's address, as the answers have it.
        repository: git's own folder, shared by all work trees of a repository; None outside of one.
        top: of the work tree.
        prefix: from there to the service, empty where it is the repository.
        head: commit that the owner has checked out; empty before the first one.
        problem: why it can be neither judged nor updated.
    """

    folder: Path
    name: str
    kind: str
    version: str
    source: str
    repository: Path | None = None
    top: Path | None = None
    prefix: str = ""
    head: str = ""
    problem: str = ""


def find(paths: Sequence[Path], *, outside: Path | None = None) -> list[Service]:
    """Return the services at or below some folders, in the order of their paths.

    A service that is found in two work trees of one repository is returned once, the main one first.

    Args:
        outside: a folder that is not looked into.

    Raises:
        FileNotFoundError: where a path is no folder.
    """
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is no folder: name folders that hold services")
    folders = sorted({folder for path in paths for folder in _folders(path.resolve(), outside)})
    found: dict[tuple[object, str], Service] = {}
    for folder in folders:
        service = read(folder)
        if service:
            place = (service.repository or service.folder, service.prefix)
            if place not in found or (service.top and (service.top / ".git").is_dir()):
                found[place] = service
    return list(found.values())


def read(folder: Path) -> Service | None:
    """Return the service in a folder with answers; None where the answers are those of another template."""
    try:
        text = (folder / ANSWERS).read_text()
        answers: Any = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError):
        return _unreadable(folder)
    except yaml.YAMLError:
        return _unreadable(folder) if all(f"{name}:" in text for name in OURS) else None
    if not isinstance(answers, dict) or not answers.keys() >= OURS:
        return None
    name, kind, at, source = (
        str(answers.get(key) or "") for key in ("service_name", "service_kind", "_commit", "_src_path")
    )
    problem = "" if source else f"{ANSWERS} has no _src_path: restore it with git"
    return _in_repository(Service(folder, name, kind, at, source, problem=problem))


def _folders(path: Path, outside: Path | None) -> Iterator[Path]:
    for folder, names, files in os.walk(path):
        here = Path(folder)
        if here == outside or "pyvenv.cfg" in files:
            names.clear()
            continue
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in SKIPPED)
        if ANSWERS in files:
            yield here


def _unreadable(folder: Path) -> Service:
    problem = f"{ANSWERS} cannot be read: restore it with git"
    return _in_repository(Service(folder, folder.name, "?", "", "", problem=problem))


def _in_repository(service: Service) -> Service:
    """Add where in which repository the service is."""
    ask = ("rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir", "--show-prefix")
    try:
        top, common, prefix = (*git(service.folder, *ask).split("\n"), "")[:3]
    except Failed:
        return replace(service, problem=service.problem or "is in no git repository: git init, and commit it")
    placed = replace(service, top=Path(top), repository=Path(common), prefix=prefix.rstrip("/"))
    try:
        head = git(service.folder, "rev-parse", f"HEAD:./{ANSWERS}", "HEAD").split("\n")[-1]
    except Failed:
        return replace(placed, problem=service.problem or "is not committed: commit it")
    return replace(placed, head=head)
