"""Git as the commands use it: one runner, and where a service is in its repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from marty_lib._cli_report import Failure

# What git sets for a hook would lead every command of ours to the hook's repository.
INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
IDENTITY = {f"GIT_{role}_{what}": "marty" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
# Nobody's hooks run on our commits and checkouts; nothing waits for a password that nobody types.
OURS = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", "-c", "advice.detachedHead=false")


class GitError(Exception):
    """Git has refused; the message is git's own."""


def git(folder: Path, *arguments: str, stdin: bytes | None = None, variables: Mapping[str, str] | None = None) -> bytes:
    """Run git in a folder, and return what it prints.

    Raises:
        GitError: it has ended with another code than 0.
    """
    environment = {**os.environ, **IDENTITY, **(variables or {}), "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", *OURS, *arguments]
    try:
        ended = subprocess.run(command, cwd=folder, env=environment, input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise Failure("git-missing", "git is not installed.", "Install git, then try again.") from None
    if ended.returncode:
        raise GitError(ended.stderr.decode(errors="replace").strip() or f"git {arguments[0]} failed")
    return ended.stdout


def line(folder: Path, *arguments: str) -> str:
    """Return the one line that git prints."""
    return git(folder, *arguments).decode().removesuffix("\n")


def names(printed: bytes) -> list[str]:
    """Return the names that git prints with `-z`."""
    return [os.fsdecode(name) for name in printed.split(b"\0") if name]


def forget_the_callers_repository() -> None:
    """Remove what a calling hook has put into the environment."""
    for name in INHERITED:
        os.environ.pop(name, None)


@dataclass(frozen=True)
class Place:
    """Where a service is: its folder, and its part of a repository.

    Args:
        folder: of the service, absolute.
        top: of the repository's work tree.
        prefix: from the top to the folder, '' or with a slash at the end.
    """

    folder: Path
    top: Path
    prefix: str

    @classmethod
    def of(cls, folder: Path) -> Place:
        """Find the repository around a folder.

        Raises:
            Failure: the folder is not there, in no repository, or the repository has no commit.
        """
        folder = folder.resolve()
        if not folder.is_dir():
            raise Failure("no-folder", f"{folder} is no folder.", "Name the folder of a service.")
        try:
            top = Path(line(folder, "rev-parse", "--show-toplevel"))
            prefix = line(folder, "rev-parse", "--show-prefix")
        except GitError as error:
            raise Failure(
                "not-a-repository",
                f"{folder} is in no git repository ({error}).",
                'Make it one: git init && git add . && git commit -m "Render the service".',
            ) from None
        return cls(folder, top, prefix)

    @cached_property
    def head(self) -> str:
        """The commit that is checked out.

        Raises:
            Failure: nothing has been committed.
        """
        try:
            return line(self.folder, "rev-parse", "--verify", "HEAD^{commit}")
        except GitError:
            raise Failure("no-commit", "The repository has no commit.", "Commit the service, then try again.") from None

    @cached_property
    def tree(self) -> str:
        """The tree of the service in the commit that is checked out.

        Raises:
            Failure: the commit does not hold the folder.
        """
        try:
            return line(self.folder, "rev-parse", "--verify", f"{self.head}:{self.prefix}")
        except GitError:
            raise Failure(
                "not-committed", f"{self.folder} is not in the last commit.", "Commit the service, then try again."
            ) from None

    def path_of(self, name: str) -> Path:
        """Return the path of something in the repository's own folder."""
        return self.folder / line(self.folder, "rev-parse", "--git-path", name)

    @cached_property
    def state(self) -> Path:
        """The folder in which an update of this service keeps what `--continue` and `--abort` need."""
        return self.path_of("-".join(["marty-update", *([quote(self.prefix[:-1], safe="")] if self.prefix else [])]))

    def changed(self) -> list[str]:
        """Return the paths in the service that differ from the last commit, untracked ones included."""
        status = git(self.folder, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", ".")
        return [entry[3:].removeprefix(self.prefix) for entry in names(status)]

    def check_clean(self) -> None:
        """Demand that everything in the service is committed.

        Raises:
            Failure: something is not.
        """
        if changed := self.changed():
            listed = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
            raise Failure("dirty", f"Not everything is committed: {listed}.", "Commit or stash it, then try again.")
