"""A copy of the service in a temporary folder, as a repository of its own, in which an update can do no harm."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from marty_lib._cli_git import GitError, Place, git, line

# What decides how git writes files, where the service's repository says so itself. Mode bits and links are not among
# it: the scratch folder has them, even where the owner's does not.
SETTINGS = ("core.autocrlf", "core.eol", "core.ignorecase", "core.precomposeunicode")


@dataclass(frozen=True)
class Scratch:
    """A repository whose root is the service, even where the service is a sub-folder.

    Args:
        folder: of the copy; its name is the service's.
        head: its only commit, the service as it is in the last commit.
    """

    folder: Path
    head: str

    def snapshot(self, folder: Path, *, force: bool = False) -> str:
        """Return the tree of a folder's files as git would commit them."""
        index = {"GIT_INDEX_FILE": str(self.folder.parent / "index"), "GIT_DIR": str(self.folder / ".git")}
        (self.folder.parent / "index").unlink(missing_ok=True)
        variables = {**index, "GIT_WORK_TREE": str(folder)}
        if not force:  # what is tracked stays so, even where it is ignored now
            git(folder, "read-tree", "HEAD", variables=variables)
        git(folder, "add", "--all", *(["--force"] if force else []), ".", variables=variables)
        if not force and (rejected := self.rejected()):
            git(folder, "add", "--force", "--", *rejected, variables=variables)
        return git(folder, "write-tree", variables=variables).decode().strip()

    def rejected(self) -> list[str]:
        """Return the untracked `*.rej` files, ignored ones included."""
        found = git(self.folder, "ls-files", "--others", "-z", "--", "*.rej")
        return [os.fsdecode(name) for name in found.split(b"\0") if name]


@contextmanager
def scratch(place: Place) -> Iterator[Scratch]:
    """Copy what is committed of a service, and remove the copy at the end.

    Everything that Copier and migrations put into temporary folders goes there too.
    """
    with tempfile.TemporaryDirectory(prefix="marty-", ignore_cleanup_errors=True) as outer:
        folder, temporary = Path(outer, place.folder.name), Path(outer, "tmp")
        folder.mkdir()
        temporary.mkdir()
        before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
        try:
            yield Scratch(folder, checkout(place, folder))
        finally:
            tempfile.tempdir = before
            os.environ.pop("TMPDIR", None)
            if variable is not None:
                os.environ["TMPDIR"] = variable


def checkout(place: Place, folder: Path) -> str:
    """Make a repository that borrows the service's objects, with the service as its root; return its commit."""
    git(folder, "init", "--quiet", "--initial-branch=marty")
    own = folder / ".git"
    (own / "objects/info/alternates").write_text(f"{place.path_of('objects').resolve()}\n")
    for name in ("exclude", "attributes"):
        if (theirs := place.path_of(f"info/{name}")).is_file():
            (own / "info" / name).write_bytes(theirs.read_bytes())
    for setting in SETTINGS:
        try:
            value = line(place.folder, "config", "--get", setting)
        except GitError:
            continue
        git(folder, "config", setting, value)
    commit = git(folder, "commit-tree", "-m", "The service", place.tree).decode().strip()
    git(folder, "reset", "--quiet", "--hard", commit)
    return commit
