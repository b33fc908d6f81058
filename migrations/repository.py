"""The service's repository, as migrations read it. The folder they run in is the service's, maybe below the top."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LINK = "120000"
EXECUTABLE = "100755"
PLAIN = "100644"


def git(*arguments: str, stdin: bytes | None = None, variables: Mapping[str, str] | None = None) -> bytes:
    """Run git, and return what it prints."""
    environment = os.environ | (variables or {})
    return subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=True, env=environment).stdout


def names(printed: bytes) -> list[str]:
    """Return the names that git has printed with `-z`."""
    return [os.fsdecode(name) for name in printed.split(b"\0") if name]


def prefix() -> str:
    """Return this folder as seen from the repository's top, with a slash behind, or ''."""
    return os.fsdecode(git("rev-parse", "--show-prefix")).removesuffix("\n")


def tracked() -> dict[str, str]:
    """Return path and mode of each file that HEAD has in this folder; submodules are no files."""
    listed = [line.partition("\t") for line in names(git("ls-tree", "-r", "-z", "HEAD", "--", "."))]
    return {path: entry[:6] for entry, _, path in listed if " blob " in entry}


def committed(path: str) -> bytes:
    """Return a file as it is in HEAD."""
    return git("cat-file", "blob", f"HEAD:./{path}")


def answers(text: bytes) -> dict[str, Any]:
    """Return the answers of an answers file, without what Copier keeps there for itself."""
    return {name: value for name, value in (yaml.safe_load(text) or {}).items() if not name.startswith("_")}


def may_lack_files(file: str) -> bool:
    """Tell whether a file that came with a commit of the answers file may be gone: deleted or renamed, by whomever.

    A shallow clone or a single commit, as `marty update` makes one, does not tell: then it may.
    """
    history = git("rev-list", "--max-count=2", "HEAD").split()
    if len(history) < 2 or git("rev-parse", "--is-shallow-repository").strip() == b"true":
        return True
    commits = git("log", "--format=%H", "--", file).decode().split()
    shown = ("--format=", "--no-renames", "--diff-filter=A", "--name-only", "--relative", *commits, "--", ".")
    return not tracked().keys() >= set(names(git("show", "-z", *shown)))


def has_crlf() -> bool:
    """Tell whether a file is committed with the line endings of Windows."""
    return b"i/crlf" in git("ls-files", "--eol", "--", ".")


def unmerged() -> set[str]:
    """Return the files that Copier could not merge."""
    return set(names(git("diff", "-z", "--name-only", "--relative", "--diff-filter=U", "--", ".")))


@dataclass
class Work:
    """What was done to a render: old and new path of renamed files, and the old paths of edited ones."""

    renamed: dict[str, str] = field(default_factory=dict)
    edited: set[str] = field(default_factory=set)


def work_since(base: Path) -> Work:
    """Compare a render with HEAD, and return what its owner has done, as git sees it."""
    objects = Path(os.fsdecode(git("rev-parse", "--git-path", "objects")).strip()).resolve()
    environment = {"GIT_DIR": os.fsdecode(git("rev-parse", "--absolute-git-dir")).strip()}
    folder_of_head = f"HEAD:{prefix()}"
    with tempfile.TemporaryDirectory(prefix="marty-migration-") as aside:
        environment |= {"GIT_INDEX_FILE": f"{aside}/index", "GIT_WORK_TREE": str(base), "GIT_OBJECT_DIRECTORY": aside}
        environment["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(objects)
        git("-C", str(base), "-c", "core.autocrlf=false", "add", "--all", "--force", ".", variables=environment)
        tree = git("write-tree", variables=environment).decode().strip()
        command = ("diff-tree", "-r", "-z", "-M", "-l0", "--name-status", tree, folder_of_head)
        fields = iter(names(git(*command, variables=environment)))
    work = Work()
    for status in fields:
        path = next(fields)
        if status.startswith("R"):
            work.renamed[path] = next(fields)
        elif status in "MT":
            work.edited.add(path)
    return work


def mark_unmerged(path: str, mode: str, *stages: bytes) -> None:
    """Record base, ours and theirs in git's index, so that `git status` shows the conflict."""
    name = prefix() + path
    hashes = [git("hash-object", "-w", "--stdin", stdin=content).decode().strip() for content in stages]
    lines = [f"0 {'0' * 40}\t{name}", *(f"{mode} {sha} {number}\t{name}" for number, sha in enumerate(hashes, 1))]
    git("update-index", "--index-info", stdin=os.fsencode("\n".join(lines) + "\n"))


def mark_merged(path: str) -> None:
    """Take a conflict out of git's index."""
    git("reset", "--quiet", "HEAD", "--", path)
