"""Commits and work trees of the fleet's own: nothing here touches the owner's work tree, index or branches.

A service is updated on a commit that holds nothing but the service, at its place in the repository. So Copier, which
compares the whole repository, takes no longer in a repository of a hundred services, which are updated side by side.
What an update has changed is then merged onto the owner's commit: the two have the other services in no common file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from marty_lib._cli_fleet_find import Service
from marty_lib._cli_fleet_processes import Failed, Stopped, git

# What git reads from the folders above about the files of a service.
INHERITED = (".gitattributes", ".gitignore")


def alone(service: Service) -> str:
    """Return a commit of the service alone; the owner's, where the service is the whole repository."""
    if not service.prefix:
        return service.head
    assert service.top  # where git looks into no file, but wants to be
    above = [str(folder / name) for folder in PurePosixPath(service.prefix).parents for name in INHERITED]
    kept = git(service.top, "ls-tree", "-z", service.head, "--", *above).rstrip("\0").replace("\0", "\n")
    with tempfile.TemporaryDirectory(prefix="marty-index-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        place = f"--prefix={service.prefix}/"
        git(service.top, "read-tree", place, f"{service.head}:{service.prefix}", **index)
        git(service.top, "update-index", "--index-info", stdin=kept, **index)
        tree = git(service.top, "write-tree", **index)
    return git(service.top, "commit-tree", tree, "-m", f"Only {service.prefix}")


def commit(folder: Path, parent: str, message: str) -> str:
    """Commit everything that differs in a folder's work tree; return the commit, or the parent where nothing does."""
    git(folder, "add", "--all", "--", ".")
    tree = git(folder, "write-tree")
    if tree == git(folder, "rev-parse", f"{parent}^{{tree}}"):
        return parent
    return git(folder, "commit-tree", tree, "-p", parent, "-F", "-", stdin=message)


def onto(repository: Path, tip: str, start: str, update: str) -> str:
    """Return the update, which has been made on the commit `start`, as a commit on a tip.

    Raises:
        Failed: where both have changed the same lines, as two services that share files could.
    """
    if start == tip:
        return update
    # git merges what has a common ancestor: give the tip's files a parent that is the update's, too.
    relative = git(repository, "commit-tree", f"{tip}^{{tree}}", "-p", start, "-m", "Everything")
    tree = git(repository, "merge-tree", "--write-tree", relative, update).split("\n")[0]
    author = git(repository, "show", "--no-patch", "--format=%an%n%ae%n%ad", "--date=raw", update).split("\n")
    said = dict(zip(("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_AUTHOR_DATE"), author, strict=True))
    message = git(repository, "show", "--no-patch", "--format=%B", update)
    return git(repository, "commit-tree", tree, "-p", tip, "-F", "-", stdin=message, **said)


def exists(repository: Path, commit: str) -> bool:
    """Tell whether a repository still has a commit that no branch holds."""
    try:
        git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except Failed:
        return False
    return True


@contextmanager
def work_tree(repository: Path, commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out into a new folder, and remove that at the end."""
    git(repository, "worktree", "add", "--quiet", "--detach", "--force", str(folder), commit)
    try:
        yield folder
    finally:
        with suppress(Stopped):  # the run's end does it
            remove(repository, folder)


def remove(repository: Path, folder: Path) -> None:
    """Remove a work tree, whatever is left of it, and let the repository forget it, and no other that is away."""
    forget = ("worktree", "remove", "--force", "--force", str(folder))
    try:
        git(repository, *forget)
    except Failed:
        shutil.rmtree(folder, onerror=_make_writable)
        with suppress(Failed):  # it was not known
            git(repository, *forget)


def remove_all(folder: Path, repositories: set[Path]) -> None:
    """Remove all work trees of a folder, as an interruption has left them."""
    for repository in repositories:
        listed = git(repository, "worktree", "list", "--porcelain", "-z").split("\0")
        for path in (Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")):
            if folder in path.parents:
                remove(repository, path)
    for left in folder.iterdir():
        shutil.rmtree(left, onerror=_make_writable)


def _make_writable(function: Callable[[str], object], path: str, _: object) -> None:
    with suppress(OSError):
        for locked in (Path(path).parent, Path(path)):
            locked.chmod(0o700)
        function(path)
