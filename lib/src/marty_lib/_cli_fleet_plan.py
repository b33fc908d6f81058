"""What a run is to do: which services, from which sources, to which version, on which branch."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import platformdirs

from marty_lib import _cli_fleet_branches as branches
from marty_lib._cli_fleet_find import Service, find
from marty_lib._cli_fleet_processes import Failed, git
from marty_lib._cli_fleet_sources import Source
from marty_lib._cli_fleet_update import Task
from marty_lib._cli_lock import locked
from marty_lib._cli_report import Failure

GIT = (2, 38)  # merge-tree --write-tree


def services_below(paths: Sequence[Path], *, outside: Path | None = None) -> list[Service]:
    """Return the services below some folders.

    Raises:
        Failure: a path is no folder, or no service is there.
    """
    try:
        services = find(paths, outside=outside)
    except FileNotFoundError as error:
        raise Failure("no-folder", f"{error}.", "Name folders that hold services.") from None
    if not services:
        listed = ", ".join(map(str, paths))
        raise Failure("no-services", f"No service of Marty's is below {listed}.", "Name the folders that hold them.")
    return services


def sources_of(services: Sequence[Service]) -> dict[str, Source]:
    """Return each source that services come from, by its address as their answers have it."""
    return {spelled: Source(spelled) for spelled in sorted({service.source for service in services if service.source})}


def shared(sources: Mapping[str, Source]) -> dict[str, str]:
    """Clone or fetch each source once; return the git configuration that sends everybody to what is here."""
    settings: dict[str, str] = {}
    for source in sources.values():
        try:
            settings |= source.share(platformdirs.user_cache_path("marty") / "templates")
        except Failed:
            continue  # its services say so, each
    return settings


def tasks_for(services: Sequence[Service], sources: Mapping[str, Source], *, to: str | None, branch: str) -> list[Task]:
    """Return what is to be done for each service.

    Args:
        to: version to update to; None is each source's newest.
        branch: name, in which `{version}` stands for that.
    """
    return [_task(service, sources.get(service.source), to, branch) for service in services]


def _task(service: Service, source: Source | None, to: str | None, branch: str) -> Task:
    if service.problem or source is None:
        return Task(service, to or "", "", problem=service.problem or "names no source of the template")
    try:
        target = source.target(to)
    except Failed as error:
        return Task(service, to or "", "", problem=str(error))
    name = branch.replace("{version}", target)
    return Task(service, target, name, current=source.has_reached(service.version, target))


def check_branch(branch: str) -> None:
    """Refuse what cannot be a branch's name.

    Raises:
        Failure: it cannot.
    """
    try:
        git(Path.cwd(), "check-ref-format", "--branch", branch.replace("{version}", "v1.0.0"))
    except Failed:
        raise Failure(
            "bad-branch",
            f"{branch!r} cannot be a branch's name.",
            "Give another to --branch, such as update-{version}.",
        ) from None


def check_pull_requests(tasks: Sequence[Task]) -> None:
    """Refuse to begin where pull requests could not be opened at the end.

    Raises:
        Failure: gh is missing, or a repository has no remote.
    """
    if not shutil.which("gh"):
        raise Failure("gh-missing", "gh is not installed, which opens pull requests.", "Install it, or leave out --pr.")
    repositories = sorted({task.group[0] for task in tasks if task.service.repository and not task.current})
    if lacking := branches.without_remote(repositories):
        listed = ", ".join(str(each.parent if each.name == ".git" else each) for each in lacking)
        remedy = f"Add it with git remote add {branches.REMOTE} URL, or leave out --pr."
        raise Failure("no-remote", f"There is no remote {branches.REMOTE!r} to push to in {listed}.", remedy)


def check_git(tasks: Sequence[Task]) -> None:
    """Refuse to begin where no commit could be made at the end.

    Raises:
        Failure: git is too old, or does not know who commits.
    """
    found = re.search(r"\d+\.\d+", git(Path.cwd(), "version"))
    if not found or tuple(map(int, found[0].split("."))) < GIT:
        wanted = ".".join(map(str, GIT))
        raise Failure("git-too-old", f"git {wanted} or newer is needed.", "Upgrade git, then try again.")
    for repository in sorted({task.group[0] for task in tasks if task.service.head and not task.current}):
        try:
            git(repository, "var", "GIT_AUTHOR_IDENT")
            git(repository, "var", "GIT_COMMITTER_IDENT")
        except Failed:
            remedy = "Say it: git config --global user.name NAME, and user.email ADDRESS."
            raise Failure("no-identity", f"git does not know who commits in {repository}.", remedy) from None


def default_folder(paths: Sequence[Path]) -> Path:
    """Return the folder for reports on some paths, the same each time."""
    digest = hashlib.sha256("\0".join(sorted(str(path.resolve()) for path in paths)).encode()).hexdigest()[:12]
    return platformdirs.user_state_path("marty") / "fleet" / digest


def reserved(folder: Path) -> AbstractContextManager[None]:
    """Make a folder, which git ignores, and return what keeps other runs out of it.

    Raises:
        Failure: nothing can be written there; on entering, another run is in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        remedy = "Name another folder with --report."
        raise Failure("no-report", f"The report cannot be written: {error}.", remedy) from None
    busy = f"Another fleet update is under way in {folder}."
    return locked(folder, Failure("running", busy, "Wait for it, or name another folder with --report."))
