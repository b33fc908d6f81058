"""The update of one service in a work tree of its own, from the owner's commit to a commit with the new template."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marty_lib import _cli_fleet_branches as branches
from marty_lib import _cli_fleet_trees as trees
from marty_lib._cli_fleet_find import Service
from marty_lib._cli_fleet_journal import BRANCH_EXISTS, CONFLICTS, CURRENT, FAILED, TESTS_FAILED, UPDATED, Result
from marty_lib._cli_fleet_processes import Failed, environment, git, logged


@dataclass(frozen=True)
class Task:
    """One service to update.

    Args:
        target: tag of the template.
        current: it needs no update.
        problem: why it cannot be updated.
    """

    service: Service
    target: str
    branch: str
    current: bool = False
    problem: str = ""

    @property
    def group(self) -> tuple[Path, str]:
        """Whose commits share a branch: repository and branch."""
        return self.service.repository or self.service.folder, self.branch


@dataclass(frozen=True)
class Setup:
    """What is the same for all services of a run.

    Args:
        folder: for logs and work trees.
        test: command that a service must pass, run by the shell in its folder; empty for none.
        flags: more options of `marty update`.
        variables: more of the environment of everything that is run.
    """

    folder: Path
    test: str = ""
    flags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Where work trees are made."""
        return self.folder / "work"

    def log(self, service: Service) -> Path:
        """Return the file for what the update and the tests of a service say."""
        mark = hashlib.sha256(bytes(service.folder)).hexdigest()[:8]
        return self.folder / "logs" / f"{service.folder.name}-{mark}.log"

    def place(self, service: Service) -> Path:
        """Return a new folder for the work tree of a service: what an interrupted run started may still write."""
        return Path(tempfile.mkdtemp(prefix=f"{service.folder.name}-", dir=self.work))


def update(task: Task, setup: Setup) -> Result:
    """Update a service; return what has become of it.

    Raises:
        Stopped: while the run is being interrupted.
    """
    began = time.monotonic()
    service = task.service
    result = Result(str(service.folder), service.name, service.kind, service.version, task.target, CURRENT)
    result = replace(result, head=service.head, branch=task.branch)
    try:
        if task.problem or service.problem:
            result = replace(result, outcome=FAILED, message=task.problem or service.problem)
        elif not task.current:
            result = _updated(task, setup, result)
    except (Failed, OSError) as error:
        result = replace(result, outcome=FAILED, commit="", message=str(error))
    return replace(result, seconds=round(time.monotonic() - began, 2))


def _updated(task: Task, setup: Setup, result: Result) -> Result:
    service, repository = task.service, task.group[0]
    if branches.has(repository, task.branch):
        return replace(result, outcome=BRANCH_EXISTS, message=f"the branch {task.branch} is there already")
    log = setup.log(service)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    # uv reads the projects around, where a lock is.
    start = service.head if (service.folder / "uv.lock").exists() else trees.alone(service)
    result = replace(result, start=start, log=str(log))
    with trees.work_tree(repository, start, setup.place(service)) as tree:
        folder = tree / service.prefix
        said = _marty_update(folder, task.target, setup, log)
        if said["conflicts"]:
            return replace(result, outcome=CONFLICTS, conflicts=said["conflicts"])
        _lock(folder, log, setup)
        commit = trees.commit(folder, start, message(task, said))
        if commit == start:
            return result
        passed = not setup.test or _passes(tree, service, start, commit, setup, log)
    failure = "" if passed else f"`{setup.test}` fails"
    return replace(result, outcome=UPDATED if passed else TESTS_FAILED, commit=commit, message=failure)


def _marty_update(folder: Path, target: str, setup: Setup, log: Path) -> dict[str, Any]:
    """Run `marty update` in a folder; return what it says.

    Raises:
        Failed: where it cannot be made.
    """
    command = [sys.executable, "-m", "marty_lib.cli", "update", "--json", "--to", target, *setup.flags]
    # What an end by SIGKILL leaves behind is cleared away with the work trees.
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=setup.work, ignore_cleanup_errors=True) as temporary:
        printed = Path(temporary, "said.json")
        variables = environment(**setup.variables, TMPDIR=temporary)
        code = logged(command, folder=folder, log=log, printed=printed, env=variables)
        try:
            said: dict[str, Any] = json.loads(printed.read_text())
        except ValueError:
            raise Failed(f"marty update ended with {code}, and said nothing for programs: see {log}") from None
    if error := said.get("error"):
        raise Failed(f"{error['message']} {error['remedy']}")
    return said


def _lock(folder: Path, log: Path, setup: Setup) -> None:
    """Bring the locked versions in line with what the new template asks for, where a service commits them.

    Raises:
        Failed: where uv is missing or cannot.
    """
    if not (folder / "uv.lock").exists():
        return
    if not shutil.which("uv"):
        raise Failed("uv is not installed, which brings uv.lock in line with the new template: install it")
    if logged(["uv", "lock"], folder=folder, log=log, printed=None, env=environment(**setup.variables)):
        raise Failed(f"`uv lock` fails: see {log}")


def _passes(tree: Path, service: Service, start: str, commit: str, setup: Setup, log: Path) -> bool:
    """Run the service's tests, in a whole repository with the updated service in it."""
    git(tree, "reset", "--quiet", "--hard", trees.onto(tree, service.head, start, commit))
    command = ["sh", "-c", setup.test]
    variables = environment(**setup.variables)
    return logged(command, folder=tree / service.prefix, log=log, printed=None, env=variables) == 0


def message(task: Task, said: Mapping[str, Any]) -> str:
    """Return the message of the commit: what it is, and what the releases on the way bring and ask."""
    changelog = re.sub(r"^#+ *", "", said["changelog"], flags=re.MULTILINE)  # git takes these lines for comments
    notes = "".join(f"- {note}\n" for note in said["notes"])
    parts = [
        f"Update {task.service.name} to the template's {said['to']}",
        f"From {said['from']}, by marty fleet update.",
        changelog.strip(),
        notes and f"What the update has noted:\n\n{notes.strip()}",
        f"Marty-From: {said['from']}\nMarty-To: {said['to']}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"
