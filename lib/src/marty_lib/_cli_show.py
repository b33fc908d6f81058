"""What the commands tell a person, and the JSON that they print for `update`."""

from __future__ import annotations

from typing import Any

from marty_lib import _cli_update as work
from marty_lib._cli_changes import Change
from marty_lib._cli_doctor import Health
from marty_lib._cli_git import Place
from marty_lib._cli_new import Rendered
from marty_lib._cli_plan import Plan
from marty_lib._cli_report import Exit, redacted

WORDS = {
    "conflict": "conflict: you and the template have changed the same lines",
    "added": "added",
    "changed": "changed",
    "merged": "merged with your edits",
    "renamed": "renamed",
    "deleted": "deleted",
}


def plan(seen: Plan, *, diff: bool = False) -> None:
    """Print a plan."""
    source = redacted(seen.answers.source)
    if seen.up_to_date:
        print(f"Up to date: {seen.answers.version} of {source}.")
        return
    print(f"{seen.answers.version} -> {seen.to} of {source}")
    for word, meaning in WORDS.items():
        if paths := [each for each in seen.changes if each.change == word]:
            print(f"\n{meaning}:")
            for each in paths:
                print(f"  {line(each)}")
    for note in seen.notes:
        print(f"\nnote: {note}")
    if seen.changelog:
        print(f"\n{seen.changelog}")
    if diff:
        print(f"\n{seen.diff}")


def line(change: Change) -> str:
    """Return a path with what its owner should know."""
    if change.old_path:
        return f"{change.old_path} -> {change.path}{', with your edits' if change.edited else ''}"
    lost = change.change == "deleted" and change.edited
    return f"{change.path}{' (you had edited it: git show HEAD:./PATH has your text)' if lost else ''}"


def updated(seen: Plan) -> dict[str, Any]:
    """Return the JSON of an update, with what comes next."""
    state = "conflicts" if seen.conflicts else "up-to-date" if seen.up_to_date else "updated"
    sentences = {"conflicts": work.SOLVE, "up-to-date": [], "updated": work.FINISH}[state]
    return {**seen.as_json(), "state": state, "next": sentences}


def resumed(place: Place) -> tuple[dict[str, Any], Exit]:
    """Continue an update; return its JSON and the exit code."""
    journal, left = work.resume(place)
    base = {"service": str(place.folder), "to": journal.to, "conflicts": left, "message": journal.message}
    if left:
        return {
            **base,
            "state": "conflicts",
            "next": [*(f"not solved: {path}" for path in left), *work.SOLVE],
        }, Exit.FINDINGS
    return {**base, "state": "updated", "next": ["All conflicts are solved and staged.", *work.FINISH]}, Exit.FINE


def aborted(place: Place) -> tuple[dict[str, Any], Exit]:
    """Take an update back; return its JSON and the exit code."""
    journal, kept = work.abort(place)
    sentences = [f"The update to {journal.to} is taken back."]
    if kept:
        sentences.append(f"What you had changed since is in {kept}: git stash show -p {kept}.")
    return {
        "service": str(place.folder),
        "to": journal.to,
        "state": "aborted",
        "stash": kept,
        "next": sentences,
    }, Exit.FINE


def health(seen: Health) -> None:
    """Print what the doctor has found."""
    for each in seen.findings:
        print(f"{each.code}: {redacted(each.message)}\n  {redacted(each.remedy)}")
    if seen.version:
        newest = f", behind the newest, {seen.latest}, by {seen.behind}" if seen.behind else ""
        print(f"{seen.folder.name} is at {seen.version} of {redacted(seen.template or '')}{newest}.")
    if not seen.findings:
        print("Nothing is in the way of an update.")


def rendered(made: Rendered) -> None:
    """Print what was rendered, and what comes next."""
    name = made.answers.data.get("service_name", made.folder.name)
    if made.dry:
        print("\n".join(made.files))
        print(f"\n{len(made.files)} files would be in {made.folder}; nothing was written.")
        return
    print(
        f"{name} is ready in {made.folder}, from {made.answers.version} of {redacted(made.answers.source)}. Next:\n\n"
        f"    cd {made.folder}\n"
        f'    git init && git add . && git commit -m "Render {name} with Marty"\n'
        "    make dev        # install, then run with embedded defaults: no server needed\n"
        "    make test       # the service's own tests"
    )
