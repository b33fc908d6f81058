"""A run's report: Markdown for people, JSON for scripts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marty_lib._cli_fleet_journal import BRANCH_EXISTS, CONFLICTS, CURRENT, FAILED, TESTS_FAILED, UPDATED, Result

# In the order in which an owner wants to know of them.
REMEDIES = {
    CONFLICTS: "The template and the owner have changed the same lines. Nothing was committed and there is no branch. "
    "In the service, run `marty update`, solve the conflicts, then `marty update --continue`.",
    TESTS_FAILED: "The branch holds the update; the tests fail on it. Mend them there, then merge.",
    FAILED: "Nothing was changed. Mend what the message says, then run the same command again.",
    BRANCH_EXISTS: "A branch from before holds an update. Merge or delete it, then run the same command again.",
    UPDATED: "",
    CURRENT: "",
}
TAIL = 30  # lines of a log
KEPT = ("head", "start")  # of a result, that concern nobody else


def document(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Return the report for scripts.

    Args:
        seconds: that this run took, without the part before an interruption.
    """
    services = [{key: value for key, value in asdict(each).items() if key not in KEPT} for each in results]
    return {"counts": counts(results), "seconds": round(seconds, 1), "services": services}


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Return how many services have come to each outcome."""
    seen = Counter(result.outcome for result in results)
    return {outcome: seen[outcome] for outcome in REMEDIES}


def page(results: Sequence[Result]) -> str:
    """Return the report for people."""
    parts = ["# Fleet update\n", f"{summary(results)}\n", _table(results)]
    for outcome, remedy in REMEDIES.items():
        concerned = [result for result in results if result.outcome == outcome]
        if remedy and concerned:
            parts.append(f"## {_title(outcome)}\n\n{remedy}\n")
            parts += map(_details, concerned)
    return "\n".join(parts)


def summary(results: Sequence[Result]) -> str:
    """Return in one line what has become of all services."""
    said = ", ".join(f"{number} {_title(name).lower()}" for name, number in counts(results).items() if number)
    return f"{len(results)} service{'s' if len(results) != 1 else ''}: {said or 'none found'}"


def write(folder: Path, results: Sequence[Result], seconds: float) -> None:
    """Write report.json and report.md into a folder; each is whole or the last one's."""
    text = json.dumps(document(results, seconds), indent=2, ensure_ascii=False)
    for name, content in (("report.json", text + "\n"), ("report.md", page(results))):
        half = folder / f".{name}"
        half.write_text(content)
        half.replace(folder / name)


def _table(results: Sequence[Result]) -> str:
    lines = ["| service | kind | from | to | outcome | branch |", "|---|---|---|---|---|---|"]
    for result in results:
        branch = f"[{result.branch}]({result.pull_request})" if result.pull_request else f"`{result.branch}`"
        shown = branch if result.commit or result.pull_request or result.outcome == BRANCH_EXISTS else ""
        cells = (result.name, result.kind, result.old, result.new, _title(result.outcome).lower(), shown)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _details(result: Result) -> str:
    parts = [f"### {result.name}\n\n`{result.folder}`\n"]
    if result.message:
        parts.append(f"{result.message}\n")
    if result.conflicts:
        parts.append("".join(f"- `{name}`\n" for name in result.conflicts))
    if result.outcome in {TESTS_FAILED, FAILED} and (tail := _tail(result.log)):
        parts.append(f"```text\n{tail}\n```\n")
    return "\n".join(parts)


def _tail(log: str) -> str:
    """Return the last lines of a log, which may be long."""
    if not log or not Path(log).exists():
        return ""
    with Path(log).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 200 * TAIL))
        lines = file.read().decode(errors="replace").replace("```", "'''").splitlines()
    return "\n".join(lines[-TAIL:])


def _title(outcome: str) -> str:
    return outcome.replace("-", " ").capitalize()
