"""Carry an owner's edits over where a release renames files or folders.

    rename.py OLD NEW [OLD NEW ...]

Copier sees a renamed file as one that is gone and one that is new, and drops what the owner wrote into it. So, after
an update, each file is merged three ways: the owner's (from HEAD, at the old path), what the old release had rendered,
and what the new one has (at the new path). An owner's own files in a renamed folder move along; deleted ones stay
deleted.

It is run by `copier update` in the service's folder, by the Python that runs Copier.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from copier import run_copy

ANSWERS = ".copier-answers.yml"


def main(*paths: str) -> None:
    """Merge each pair of an old and a new path."""
    with old_release() as base:
        for old, new in zip(paths[::2], paths[1::2], strict=True):
            for name in sorted(tracked(old) | rendered(base, old)):
                merge(Path(name), Path(new + name.removeprefix(old)), base / name)
            remove_empty(Path(old))
            remove_empty(Path(new))


@contextlib.contextmanager
def old_release() -> Iterator[Path]:
    """Render the service once more as the old release did, and yield the folder."""
    answers = yaml.safe_load(committed(Path(ANSWERS)) or b"{}")
    with tempfile.TemporaryDirectory(prefix="marty-migration-") as folder:
        run_copy(
            answers["_src_path"],
            folder,
            data={name: value for name, value in answers.items() if not name.startswith("_")},
            vcs_ref=os.environ["VERSION_FROM"],
            defaults=True,
            overwrite=True,
            quiet=True,
            unsafe=True,
            skip_tasks=True,
        )
        yield Path(folder)


def merge(old: Path, new: Path, base: Path) -> None:
    """Leave at `new` what the owner's file, the old release's and the new release's make together."""
    mine, before = committed(old), base.read_bytes() if base.exists() else None
    if mine is None:
        new.unlink(missing_ok=True)
    elif mine != before:
        theirs = new.read_bytes() if new.exists() else before
        if theirs is not None and theirs != mine:
            mine = merged(new, mine, before or b"", theirs)
        write(new, mine, like=base)
    old.unlink(missing_ok=True)


def merged(path: Path, mine: bytes, base: bytes, theirs: bytes) -> bytes:
    """Merge three ways; where lines conflict, leave markers as Copier does and tell git of them."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("before updating", "last update", "after updating")]
        for file, content in zip(files, (mine, base, theirs), strict=True):
            file.write_bytes(content)
        labels = [argument for file in files for argument in ("-L", file.name)]
        command = ["git", "merge-file", "-p", *labels, *map(str, files)]
        ended = subprocess.run(command, capture_output=True, check=False)
    if ended.returncode:
        print(f"conflict in {path}: solve it by hand", file=sys.stderr)
        mark_unmerged(path, base, mine, theirs)
    return ended.stdout


def mark_unmerged(path: Path, *stages: bytes) -> None:
    """Record base, ours and theirs in git's index, so that `git status` shows the conflict."""
    name = git("ls-files", "--full-name", "--others", "--cached", "--", str(path)).decode().strip() or str(path)
    hashes = [git("hash-object", "-w", "--stdin", stdin=content).decode().strip() for content in stages]
    lines = [f"0 {'0' * 40}\t{name}", *(f"100644 {sha} {number}\t{name}" for number, sha in enumerate(hashes, 1))]
    git("update-index", "--index-info", stdin="\n".join(lines).encode() + b"\n")


def tracked(path: str) -> set[str]:
    """Return the files of HEAD at or below a path, seen from this folder."""
    return set(git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", path).decode().strip("\0").split("\0")) - {""}


def rendered(base: Path, path: str) -> set[str]:
    """Return the files of a render at or below a path."""
    found = [base / path] if (base / path).is_file() else (base / path).rglob("*")
    return {file.relative_to(base).as_posix() for file in found if file.is_file()}


def committed(path: Path) -> bytes | None:
    """Return a file as it is in HEAD, or None where it is not there."""
    ended = subprocess.run(["git", "show", f"HEAD:./{path.as_posix()}"], capture_output=True, check=False)
    return None if ended.returncode else ended.stdout


def git(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Run git, and return what it prints."""
    return subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=True).stdout


def write(path: Path, content: bytes, *, like: Path) -> None:
    """Write a file, executable where the rendered one was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if like.exists():
        path.chmod(like.stat().st_mode)


def remove_empty(folder: Path) -> None:
    """Remove a folder and those below it, if no file is left in them."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        if path.is_dir() and not any(path.iterdir()):  # a path that is gone is no folder
            path.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
