"""What an update does to a service: each changed path, and what kind of change it is."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marty_lib._cli_git import git, names
from marty_lib._cli_scratch import Scratch

MARKER = re.compile(rb"^(?:<{7}|>{7}) (?:before|after) updating", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """One path that an update changes.

    Args:
        path: seen from the service's folder; the new one of a renamed file.
        change: `added`, `changed`, `merged` (the owner has edited it, too), `renamed`, `deleted`, `conflict`.
        old_path: of a renamed file.
        edited: the owner had changed what the old version rendered.
    """

    path: str
    change: str
    old_path: str | None = None
    edited: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """A service as an update leaves it, in objects of the scratch repository.

    Args:
        tree: with conflict markers and `*.rej` files, where there are any.
        unmerged: entries of git's index at the stages 1 to 3, as `git update-index --index-info` takes them.
        changes: sorted by path.
    """

    tree: str
    unmerged: list[str]
    changes: list[Change]

    @property
    def conflicts(self) -> list[str]:
        """The paths that somebody has to look at."""
        return [each.path for each in self.changes if each.change == "conflict"]


def result_of(copy: Scratch, old: str) -> Result:
    """Look at what an update has made of a scratch repository.

    Args:
        copy: the repository.
        old: the tree that the old version renders.
    """
    tree = copy.snapshot(copy.folder)
    unmerged = [os.fsdecode(entry) for entry in git(copy.folder, "ls-files", "-u", "-z").split(b"\0") if entry]
    conflicts = {entry.partition("\t")[2] for entry in unmerged}
    before, rendered = blobs(copy.folder, copy.head), blobs(copy.folder, old)
    changes = []
    for status, path, old_path in differences(copy.folder, copy.head, tree):
        was = old_path or path
        edited = was in rendered and rendered[was] != before.get(was)
        conflicting = path in conflicts or path.endswith(".rej") or (status != "D" and marked(copy.folder / path))
        changes.append(Change(path, kind(status, edited, conflicting), old_path, edited))
    # Where the owner's text was kept, a conflict is in git's index only.
    changes += [Change(path, "conflict", None, edited=True) for path in conflicts - {each.path for each in changes}]
    return Result(tree, unmerged, sorted(changes, key=lambda change: change.path))


def kind(status: str, edited: bool, conflicting: bool) -> str:
    """Return the word for a change."""
    if conflicting:
        return "conflict"
    return {"A": "added", "D": "deleted", "R": "renamed"}.get(status, "merged" if edited else "changed")


def differences(folder: Path, before: str, after: str) -> list[tuple[str, str, str | None]]:
    """Return status, path and old path of each difference between two trees; renames are seen."""
    fields = iter(names(git(folder, "diff-tree", "-r", "-z", "--find-renames", "--name-status", before, after)))
    found: list[tuple[str, str, str | None]] = []
    for status in fields:
        first = next(fields)
        found.append((status[0], next(fields), first) if status[0] in "RC" else (status[0], first, None))
    return found


def blobs(folder: Path, tree: str) -> dict[str, str]:
    """Return mode and hash of each file of a tree, by path."""
    entries = (entry.split("\t", 1) for entry in names(git(folder, "ls-tree", "-r", "-z", tree)))
    return {path: facts for facts, path in entries}


def marked(path: Path) -> bool:
    """Tell whether a file holds Copier's conflict markers."""
    return path.is_file() and not path.is_symlink() and bool(MARKER.search(path.read_bytes()))


def patch(copy: Scratch, tree: str) -> str:
    """Return the update as a diff that `git apply` takes."""
    printed = git(copy.folder, "diff-tree", "-p", "--find-renames", "--binary", copy.head, tree)
    return printed.decode(errors="replace").removeprefix(f"{copy.head}\n")
