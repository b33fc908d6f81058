"""Edits of the owner that Copier's update has lost, without a word, are put back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from marty_lib._cli_answers import FILE
from marty_lib._cli_changes import blobs, differences
from marty_lib._cli_git import git, names
from marty_lib._cli_scratch import Scratch

LABELS = ("before updating", "last update", "after updating")


@dataclass(frozen=True)
class Sides:
    """Mode, type and hash of each file, by path: the owner's, both renders', and what Copier has made of them."""

    mine: dict[str, str]
    base: dict[str, str]
    theirs: dict[str, str]
    now: dict[str, str]


def rescue(copy: Scratch, base: str, theirs: str) -> list[str]:
    """Look after each file that the owner has edited; return what was done, in sentences.

    Copier merges by a patch, in which an edit of a binary file is missing, and deletes what the template has dropped.

    Args:
        copy: the scratch repository, after the update.
        base: the tree that the old version renders.
        theirs: the tree that the new version renders.
    """
    tree = copy.snapshot(copy.folder)
    sides = Sides(*(blobs(copy.folder, each) for each in (copy.head, base, theirs, tree)))
    settled = {entry.partition("\t")[2] for entry in names(git(copy.folder, "ls-files", "-u", "-z"))} | {FILE}
    settled |= {old for _, _, old in differences(copy.folder, copy.head, tree) if old}
    done = []
    for path in sorted(edited(sides) - settled):
        if path not in sides.theirs and path not in sides.now:
            put(copy, path)
            done.append(f"{path}: the template has dropped it; it stays, for you have edited it")
        elif path in sides.theirs and sha(sides.now.get(path)) == sha(sides.theirs[path]) != sha(sides.mine[path]):
            done += merged_again(copy, path, sides)
    return done


def edited(sides: Sides) -> set[str]:
    """Return the files that the old version has rendered, and that hold something else now."""
    return {path for path, facts in sides.base.items() if path in sides.mine and sha(sides.mine[path]) != sha(facts)}


def sha(facts: str | None) -> str:
    """Return the hash of an entry of `git ls-tree`."""
    return facts.split()[2] if facts else ""


def merged_again(copy: Scratch, path: str, sides: Sides) -> list[str]:
    """Merge a file whose edit is gone; where nothing can be merged, leave the owner's and tell git of the conflict."""
    stages = (sides.base[path], sides.mine[path], sides.theirs[path])
    regular = all(facts.startswith("100") for facts in stages)
    base, mine, theirs = (git(copy.folder, "cat-file", "blob", sha(facts)) for facts in stages)
    code, content = merge(mine, base, theirs) if regular else (255, b"")
    if code == 0 and content == theirs:
        return []  # the template has made the same edit
    if code < 128 and regular:
        (copy.folder / path).write_bytes(content)
    else:
        put(copy, path)
    if code:
        conflict(copy, path, stages)
    return [f"{path}: your edit and the template's were merged anew"]


def merge(mine: bytes, base: bytes, theirs: bytes) -> tuple[int, bytes]:
    """Return how `git merge-file` ends, and what it prints: from 1 on conflicts, from 128 on it cannot merge."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, label) for label in LABELS]
        for file, content in zip(files, (mine, base, theirs), strict=True):
            file.write_bytes(content)
        labels = [argument for label in LABELS for argument in ("-L", label)]
        ended = subprocess.run(["git", "merge-file", "-p", *labels, *files], capture_output=True, check=False)
    return ended.returncode, ended.stdout


def put(copy: Scratch, path: str) -> None:
    """Write a file as it was in the last commit."""
    target = copy.folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    git(copy.folder, "checkout", "-q", copy.head, "--", path, variables={"GIT_LITERAL_PATHSPECS": "1"})


def conflict(copy: Scratch, path: str, stages: tuple[str, ...]) -> None:
    """Record base, ours and theirs in git's index."""
    lines = [f"0 {'0' * len(copy.head)}\t{path}"]
    lines += [f"{facts.split()[0]} {sha(facts)} {number}\t{path}" for number, facts in enumerate(stages, 1)]
    git(copy.folder, "update-index", "-z", "--index-info", stdin=b"".join(os.fsencode(each) + b"\0" for each in lines))
