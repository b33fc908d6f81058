"""An update made in a scratch copy: what `preview` shows, and what `update` brings into the service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from marty_lib._cli_answers import FILE, Answers
from marty_lib._cli_changelog import between, releases
from marty_lib._cli_changes import Change, Result, patch, result_of
from marty_lib._cli_copier import Update, captured, prepared
from marty_lib._cli_git import GitError, Place, git
from marty_lib._cli_report import Failure, redacted
from marty_lib._cli_rescue import rescue
from marty_lib._cli_scratch import Scratch, scratch


@dataclass
class Plan:
    """An update that has been made, but not yet in the service.

    Args:
        place: of the service.
        answers: that the update started from.
        to: the new version.
        changes: by path; none where the service is up to date.
        releases: the template's releases that the update passes, oldest first.
        changelog: what the template says about them, as Markdown.
        notes: what migrations have printed.
        diff: of the whole update, as `git apply` takes it.
    """

    place: Place
    answers: Answers
    to: str
    changes: list[Change] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    changelog: str = ""
    notes: list[str] = field(default_factory=list)
    diff: str = ""
    scratch: Scratch | None = None
    result: Result | None = None

    @property
    def up_to_date(self) -> bool:
        """Nothing would change."""
        return not self.changes

    @property
    def conflicts(self) -> list[str]:
        """The paths that somebody would have to look at."""
        return [each.path for each in self.changes if each.change == "conflict"]

    @property
    def message(self) -> str:
        """What to commit the update with."""
        return f"Update to the template's {self.to}\n\nFrom {self.answers.version}, by marty update."

    def as_json(self) -> dict[str, Any]:
        """Return the keys that `preview` and `update` have in common; docs/cli.md says what they mean."""
        return {
            "service": str(self.place.folder),
            "template": redacted(self.answers.source),
            "from": self.answers.version,
            "to": self.to,
            "up_to_date": self.up_to_date,
            "releases": self.releases,
            "changes": [each.as_json() for each in self.changes],
            "conflicts": self.conflicts,
            "changelog": self.changelog,
            "notes": self.notes,
            "message": self.message,
        }


@contextmanager
def planned(place: Place, *, to: str | None, data: Mapping[str, Any], trust: bool) -> Iterator[Plan]:
    """Make an update in a scratch copy; it is gone at the end.

    Args:
        place: of the service, as it is in the last commit.
        to: the new version; None is the newest release.
        data: answers to change.
        trust: the template may run code.

    Raises:
        Failure: the update cannot be made.
    """
    answers = committed_answers(place)
    with scratch(place) as copy:
        with prepared(
            answers, copy.folder, to=to, data=data, trust=trust, seen=lambda folder: copy.snapshot(folder, force=True)
        ) as update:
            plan = Plan(place, answers, update.to)
            if update.old > update.new and to is not None:
                raise Failure(
                    "downgrade",
                    f"The service is at {answers.version}, which is newer than {update.to}.",
                    f"Choose {answers.version} or a later version; git revert goes back.",
                )
            if update.old < update.new or data:
                run(plan, update, copy)
        yield plan


def run(plan: Plan, update: Update, copy: Scratch) -> None:
    """Make the update and look at what has become of the scratch copy."""
    with captured() as plan.notes:
        update.run()
    old, new = update.renders
    plan.notes += rescue(copy, old, new)
    result = result_of(copy, old)
    plan.scratch, plan.result, plan.changes = copy, result, result.changes
    plan.diff = patch(copy, result.tree)
    plan.releases = releases(update.template, update.old, update.new)
    plan.changelog = between(update.template, update.old, update.new)


def committed_answers(place: Place) -> Answers:
    """Read the answers as the last commit has them.

    Raises:
        Failure: they are missing or cannot be read, there or in the folder.
    """
    try:
        text = git(place.folder, "show", f"{place.head}:{place.prefix}{FILE}")
    except GitError:
        Answers.read(place.folder)
        raise Failure("not-committed", f"{FILE} is not in the last commit.", "Commit it, then try again.") from None
    return Answers.parse(text.decode(errors="replace"))
