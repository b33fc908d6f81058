"""Carry an owner's work over where Copier would lose it.

Copier sees a renamed file as one that is gone and one that is new, and drops what the owner wrote into it; it deletes
what the template drops, edited or not; it brings nothing new to a file that the owner has renamed, and conflicts
everywhere in one with other line endings. So each such file is merged here, from three whole trees: HEAD, a render of
the old release, a render of the new one. Nothing is read from the folder itself: running twice does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from migrations.merging import File, merge, other_endings
from migrations.releases import Declaration, Rename
from migrations.repository import Work, committed, mark_merged, mark_unmerged, tracked, unmerged


@dataclass(frozen=True)
class Move:
    """Where one file was rendered, where its owner keeps it, and where the new release renders it."""

    old: str
    kept: str
    new: str

    @property
    def target(self) -> str:
        """Return where it belongs: the owner's choice comes first."""
        return self.new if self.kept == self.old else self.kept


def carry(base: Path, theirs: Path, work: Work, new_path: Callable[[str], str], *, but: str) -> None:
    """Merge what Copier does not; `base` and `theirs` are renders, `work` is the owner's, `but` the answers file."""
    head, unsolved = tracked(), unmerged()
    rendered = files(base) - {but}
    for old in sorted(rendered):
        move = Move(old, work.renamed.get(old, old), new_path(old))
        if move.kept not in head:
            if move.new != old and move.new not in head:
                Path(move.new).unlink(missing_ok=True)  # what the owner has deleted stays deleted
        elif old in work.edited or move != Move(old, old, old):
            follow(move, head, base, theirs, unsolved)
    for own in sorted(head.keys() - rendered - set(work.renamed.values())):
        if new_path(own) != own and new_path(own) not in head:
            File(committed(own), head[own]).write(Path(new_path(own)))
            Path(own).unlink(missing_ok=True)
    touched = head.keys() | rendered
    remove_empty({Path(path).parent for path in (*touched, *map(new_path, touched))})


def follow(move: Move, head: Mapping[str, str], base: Path, theirs: Path, unsolved: set[str]) -> None:
    """Merge one file, where Copier has not."""
    mine = File(committed(move.kept), head[move.kept])
    before, after = File.at(base / move.old), File.at(theirs / move.new)
    assert before is not None
    if after is None:
        keep_dropped(move, mine, before)
    elif move.target != move.kept and move.target in head:
        say(f"{move.target} is yours already: merge {move.kept} into it by hand")
        mine.write(Path(move.kept))
    elif move.target != move.old or other_endings(mine, before):
        merged, conflict = merge(mine, before, after)
        merged.write(Path(move.target))
        for left in {move.old, move.new} - {move.target, *head.keys() - {move.kept}}:
            Path(left).unlink(missing_ok=True)
        if conflict:
            say(f"conflict in {move.target}: solve it by hand")
            mark_unmerged(move.target, merged.mode, before.content, mine.content, after.content)
        elif move.target in unsolved:
            mark_merged(move.target)


def keep_dropped(move: Move, mine: File, before: File) -> None:
    """Keep a file that the new release has not, if there is work of its owner in it."""
    if mine != before and move.kept == move.old:
        mine.write(Path(move.target))
        say(f"kept {move.target}, which the template no longer has, for your edits in it")


def new_paths(declared: Iterable[Declaration], package: str, new_package: str) -> Callable[[str], str]:
    """Return a function that tells where a file of the old release is in the new one."""
    here = [(each.old, each.new) for each in declared if isinstance(each, Rename)]
    pairs = [(old.format(package=package), new.format(package=package)) for old, new in here]
    if package != new_package:
        pairs += [(f"{folder}/{package}", f"{folder}/{new_package}") for folder in ("src", "proto")]

    def new_path(path: str) -> str:
        for old, new in pairs:
            if path == old or path.startswith(f"{old}/"):
                path = new + path.removeprefix(old)
        return path

    return new_path


def files(folder: Path) -> set[str]:
    """Return the files below a folder, seen from it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def remove_empty(folders: set[Path]) -> None:
    """Remove those of the folders, and of those they are in, that have become empty."""
    above = {parent for folder in folders for parent in folder.parents}
    for folder in sorted({*folders, *above} - {Path()}, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def say(sentence: str) -> None:
    print(f" > {sentence}", file=sys.stderr)
