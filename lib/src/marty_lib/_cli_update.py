"""`marty update`: make the update, bring it in, finish it, take it back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from marty_lib._cli_apply import Journal, apply, roll_back, undisturbed
from marty_lib._cli_changes import blobs, marked
from marty_lib._cli_git import Place, git, line, names
from marty_lib._cli_lock import locked
from marty_lib._cli_plan import Plan, committed_answers, planned
from marty_lib._cli_report import Failure

SOLVE = [
    "Solve each conflict: keep what is right between the markers, and remove the markers and *.rej files.",
    "Then: marty update --continue. To take the update back: marty update --abort.",
]
FINISH = ["Run the tests: make test.", "Then commit: git commit. To take the update back: marty update --abort."]


def update(place: Place, *, to: str | None, data: Mapping[str, Any], trust: bool) -> Plan:
    """Update a service, in one step or not at all.

    Raises:
        Failure: it cannot be done; the service is as it was.
    """
    check_no_update(place)
    committed_answers(place)
    place.check_clean()
    with planned(place, to=to, data=data, trust=trust) as plan:
        if plan.scratch and plan.result and plan.changes:
            apply(place, plan.scratch, plan.result, to=plan.to, message=plan.message)
        return plan


def alone(place: Place) -> AbstractContextManager[None]:
    """Return what keeps other updates out of a service, and out of the others that share its index.

    Raises:
        Failure: on entering, another one is being made, continued or taken back.
    """
    busy = f"Another update is running in {place.top}."
    return locked(place.state.parent, Failure("running", busy, "Wait for it to end, then try again."))


def under_way(place: Place) -> Journal | None:
    """Return the update of the service that has been neither committed nor taken back."""
    journal = Journal.read(place.state)
    return journal if journal and journal.head == place.head else None


def check_no_update(place: Place) -> None:
    """Refuse to start while an update is under way.

    Raises:
        Failure: one is.
    """
    journal = under_way(place)
    if journal and (not journal.finished or place.changed()):
        raise Failure(
            "unfinished",
            f"The update to {journal.to} "
            + ("is not committed." if journal.finished else "was interrupted while it was written."),
            "Finish it with marty update --continue and git commit, or take it back with marty update --abort."
            if journal.finished
            else "Take it back with marty update --abort.",
        )


def unfinished(place: Place) -> Journal:
    """Return the update that is under way.

    Raises:
        Failure: none is.
    """
    if journal := under_way(place):
        return journal
    raise Failure("no-update", "No update is under way.", "Start one with marty update.")


def open_conflicts(place: Place, journal: Journal) -> list[str]:
    """Return the paths of an update that still have markers or rejected hunks."""
    changed = {*journal.conflicts, *journal.written, *place.changed()}
    return sorted(
        path
        for path in changed
        if marked(place.folder / path) or (path.endswith(".rej") and os.path.lexists(place.folder / path))
    )


def resume(place: Place) -> tuple[Journal, list[str]]:
    """Stage an update whose conflicts are all solved; return its journal and the paths that are not solved.

    Raises:
        Failure: no update is under way, or it was interrupted.
    """
    journal = unfinished(place)
    if not journal.finished:
        check_no_update(place)
    left = open_conflicts(place, journal)
    if not left:
        unmerged = {entry.partition("\t")[2] for entry in names(git(place.folder, "ls-files", "-u", "-z"))}
        paths = [path for path in {*journal.touched, *unmerged} if known(place, path)]
        git(place.folder, "add", "--all", "--", *sorted(paths), variables={"GIT_LITERAL_PATHSPECS": "1"})
    return journal, left


def known(place: Place, path: str) -> bool:
    """Tell whether a path is in the folder or in git's index, so that it can be staged."""
    return os.path.lexists(place.folder / path) or bool(git(place.folder, "ls-files", "--", path))


def abort(place: Place) -> tuple[Journal, str | None]:
    """Take an update back; return its journal, and the stash that keeps what the owner has changed since, if anything.

    Raises:
        Failure: no update is under way.
    """
    journal = unfinished(place)
    kept = keep(place, journal)
    with undisturbed():
        roll_back(place, journal)
    return journal, kept


def keep(place: Place, journal: Journal) -> str | None:
    """Stash what the owner has written into the files of an update, such as solved conflicts."""
    if not edited_since(place, journal):
        return None
    index = {"GIT_INDEX_FILE": str(place.state / "stash"), "GIT_LITERAL_PATHSPECS": "1"}
    git(place.folder, "read-tree", journal.head, variables=index)
    paths = [path for path in journal.written if os.path.lexists(place.folder / path)]
    git(place.folder, "add", "--all", "--force", "--", *paths, *journal.removed, variables=index)
    tree = git(place.folder, "write-tree", variables=index).decode().strip()
    base = line(place.top, "commit-tree", "-p", journal.head, "-m", "index", f"{journal.head}^{{tree}}")
    commit = line(place.top, "commit-tree", "-p", journal.head, "-p", base, "-m", "marty update --abort", tree)
    git(place.top, "stash", "store", "--message", f"marty update --abort ({journal.to})", commit)
    return line(place.top, "stash", "list", "-1", "--format=%gd")


def edited_since(place: Place, journal: Journal) -> bool:
    """Tell whether a file of an update holds something else than before it and after it."""
    known = {facts.split()[2] for facts in (*blobs(place.top, journal.head).values(), *journal.blobs)}
    paths = [path for path in journal.touched if os.path.lexists(place.folder / path)]
    links = [path for path in paths if (place.folder / path).is_symlink()]
    files = [path for path in paths if path not in links and (place.folder / path).is_file()]
    found = git(place.folder, "hash-object", "--", *files).decode().split() if files else []
    for path in links:
        target = os.fsencode((place.folder / path).readlink())
        found.append(git(place.folder, "hash-object", "--stdin", stdin=target).decode().strip())
    return not known.issuperset(found)
