"""`marty doctor`: why an update would not work, each finding with its remedy."""

from __future__ import annotations

import importlib.metadata
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from marty_lib._cli_answers import FILE, Answers
from marty_lib._cli_changelog import parsed, releases
from marty_lib._cli_changes import marked
from marty_lib._cli_copier import Update, captured, copier_errors, prepared
from marty_lib._cli_git import GitError, Place, git, line, names
from marty_lib._cli_report import Failure, redacted
from marty_lib._cli_scratch import scratch
from marty_lib._cli_update import check_no_update

RELATIVE = re.compile(r"^\.{1,2}(/|$)|^[\w.-]+(/[\w.-]+)*/?$")


Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Finding:
    """Something that is in the way of an update, or will be.

    Args:
        code: a word for scripts; listed in docs/cli.md.
        message: what is wrong, in one sentence.
        remedy: what to do about it, in one sentence.
    """

    code: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Health:
    """What the doctor has found.

    Args:
        folder: of the service.
        findings: in the order in which to mend them.
        version: of the template that rendered the service, where known.
        latest: the template's newest release, where known.
        behind: how many releases lie between; None where unknown.
        template: the template's address, where known.
    """

    folder: Path
    findings: list[Finding]
    template: str | None = None
    version: str | None = None
    latest: str | None = None
    behind: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the keys that docs/cli.md names."""
        return {
            "service": str(self.folder),
            "template": redacted(self.template) if self.template else None,
            "version": self.version,
            "latest": self.latest,
            "behind": self.behind,
            "findings": [asdict(each) for each in self.findings],
        }


def examine(folder: Path, *, trust: bool) -> Health:
    """Look at everything that an update depends on, and change nothing.

    Args:
        folder: of the service.
        trust: the template may run code.
    """
    findings: list[Finding] = []
    place, answers = in_service(folder, findings)
    if not place or not answers:
        return Health(folder.resolve(), findings)
    versions = noted(findings, lambda: in_template(place, answers, findings, trust=trust))
    latest, behind = versions or (None, None)
    version = (said(place, "HEAD") or answers).version  # an update that is not committed does not count yet
    return Health(place.folder, findings, answers.source, version, latest, behind)


def in_service(folder: Path, findings: list[Finding]) -> tuple[Place | None, Answers | None]:
    """Note what can be seen without the template; return where the service is, and its answers, where known."""
    place = noted(findings, lambda: Place.of(folder))
    answers = noted(findings, lambda: Answers.read(folder))
    if place:
        findings += in_repository(place)
        noted(findings, place.check_clean)
        noted(findings, lambda: check_no_update(place))
    if answers:
        findings += in_files(answers)
    if place and answers and (edited := edited_since(place)):
        findings.append(hand_edited(edited))
    return place, answers


def noted(findings: list[Finding], look: Callable[[], Seen]) -> Seen | None:
    """Return what a look gives; where it fails, note the failure instead."""
    try:
        return look()
    except Failure as failure:
        finding = Finding(failure.code, failure.message, failure.remedy)
        if finding not in findings:
            findings.append(finding)
        return None


def in_repository(place: Place) -> Iterator[Finding]:
    """Find what is unusual about the repository."""
    if line(place.folder, "rev-parse", "--is-shallow-repository") == "true":
        yield Finding(
            "shallow",
            "The repository is a shallow clone: history is cut off.",
            "Fetch the rest: git fetch --unshallow.",
        )
    if parent := line(place.folder, "rev-parse", "--show-superproject-working-tree"):
        yield Finding(
            "submodule",
            f"The service is a submodule of {parent}: an update is committed here, and its commit there.",
            "Check out a branch in the submodule, update it, then commit the submodule in the other repository.",
        )
    unmerged = {entry.partition("\t")[2] for entry in names(git(place.folder, "ls-files", "-u", "-z"))}
    tracked = names(git(place.folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z"))
    left = {path for path in tracked if path.endswith(".rej") or marked(place.folder / path)} | unmerged
    if left:
        yield Finding(
            "leftovers",
            f"Conflicts of an earlier update are not solved: {', '.join(sorted(left)[:5])}.",
            "Solve them, remove markers and *.rej files, then commit.",
        )


def in_files(answers: Answers) -> Iterator[Finding]:
    """Find what the answers say that works only here."""
    if "://" not in answers.source and RELATIVE.match(answers.source) and not Path(answers.source).is_absolute():
        yield Finding(
            "relative-source",
            f"{FILE} names the template by the relative path {answers.source}, which is another place from elsewhere.",
            "Write its address or its absolute path as _src_path, and commit.",
        )


def library(folder: Path, template: Path) -> Iterator[Finding]:
    """Compare the library that the service asks for with its template's own and with what is installed."""
    required, own = requirement(folder / "pyproject.toml"), version_of(template / "lib" / "pyproject.toml")
    if required and own and not required.specifier.contains(own, prereleases=True):
        yield Finding(
            "library-version",
            f"pyproject.toml asks for {required}, which does not fit the template's: it comes with {own}.",
            f"Ask for marty-lib>={own.major}.{own.minor},<{own.major + 1} in pyproject.toml.",
        )
    installed = importlib.metadata.version("marty-lib")
    in_here = os.environ.get("VIRTUAL_ENV") == str(folder.resolve() / ".venv")
    if required and in_here and not required.specifier.contains(installed, prereleases=True):
        yield Finding(
            "library-installed",
            f"marty-lib {installed} is installed, but pyproject.toml asks for {required}.",
            "Install what it asks for: make install.",
        )


def version_of(project: Path) -> Version | None:
    """Return the version of a project, if it has one."""
    try:
        return parsed(str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def requirement(project: Path) -> Requirement | None:
    """Return what a project asks of marty-lib, if anything."""
    try:
        dependencies = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
        requirements = [Requirement(each) for each in dependencies]
    except (OSError, ValueError, KeyError, TypeError, InvalidRequirement):
        return None
    return next((each for each in requirements if each.name == "marty-lib"), None)


def edited_since(place: Place) -> list[str]:
    """Return the answers that a commit of its own has changed since the last update; an update changes other files."""
    log = ["log", "--format=%H", "-20", "HEAD", "--", FILE]
    for commit in git(place.folder, *log).decode().split():
        now, before = said(place, commit), said(place, f"{commit}~")
        if not now or not before or now.version != before.version:
            return []
        files = names(git(place.folder, "diff-tree", "-r", "-z", "--no-commit-id", "--name-only", commit, "--", "."))
        changed = [name for name in now.data if now.data[name] != before.data.get(name)]
        if changed and len(files) == 1:
            return changed
    return []


def said(place: Place, commit: str) -> Answers | None:
    """Return the answers of a commit, where it has any that can be read."""
    try:
        return Answers.parse(git(place.folder, "show", f"{commit}:{place.prefix}{FILE}").decode(errors="replace"))
    except (Failure, GitError):
        return None


def hand_edited(edited: list[str]) -> Finding:
    """Return the finding for answers that were edited."""
    return Finding(
        "answers-edited",
        f"{FILE} was edited by hand: {', '.join(edited)}. An update would take your files for edits of yours.",
        f"Put the old answers back, commit, then say the new one: marty update --data {edited[0]}=VALUE.",
    )


def in_template(place: Place, answers: Answers, findings: list[Finding], *, trust: bool) -> tuple[str, int]:
    """Find the template's newest version and how far it is; note answers that the recorded version would not write.

    Raises:
        Failure: the template, or the version that the service is at, cannot be had.
    """
    with scratch(place) as copy, prepared(answers, copy.folder, trust=trust) as update:
        found = update.to, len(releases(update.template, update.old, update.new))
        findings += library(place.folder, update.recorded)
        again = noted(findings, lambda: rewritten(update, answers.source))
        if again is not None and again != answers.data:
            edited = [name for name in {**again, **answers.data} if again.get(name) != answers.data.get(name)]
            findings.append(hand_edited(edited))
        return found


def rewritten(update: Update, source: str) -> dict[str, Any]:
    """Return the answers as the recorded version of the template writes them.

    Raises:
        Failure: it refuses them.
    """
    with captured(), copier_errors(source):
        return Answers.read(update.answer_again()).data
