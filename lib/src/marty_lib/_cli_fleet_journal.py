"""What a run has done so far, in a file that survives every way to end: one line a service, written through."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

UPDATED, CURRENT, CONFLICTS, TESTS_FAILED = "updated", "current", "conflicts", "tests-failed"
BRANCH_EXISTS, FAILED = "branch-exists", "failed"


@dataclass(frozen=True)
class Result:
    """What became of one service.

    Args:
        folder: of the service, absolute.
        old: version before, as the answers had it.
        new: version that was asked for.
        outcome: one of this module's words.
        head: the owner's commit that was updated.
        start: commit on which the update was made: of the service alone, until the branch is made.
        commit: with the update, on `start`; empty where there is none.
        message: why it is not updated, and what to do.
        conflicts: files of the service, as paths within it.
        seconds: that it took.
        branch: that holds the update, or would.
        pull_request: its address.
        log: file with what the update and the tests said.
    """

    folder: str
    name: str
    kind: str
    old: str
    new: str
    outcome: str
    head: str = ""
    start: str = ""
    commit: str = ""
    message: str = ""
    conflicts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    branch: str = ""
    pull_request: str = ""
    log: str = ""


class OtherRun(Exception):
    """An interrupted run with other options is in the way."""


class Journal:
    """The file; kept from the first service to the report.

    Args:
        path: of the file.
        options: of this run, which an interrupted one must share to be resumed.

    Raises:
        OtherRun: where the interrupted run had others.
    """

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self.path = path
        self.results: dict[str, Result] = {}
        lines = _read(path)
        if lines and lines[0] != options:
            changed = sorted(key for key in {*lines[0], *options} if lines[0].get(key) != options.get(key))
            raise OtherRun(f"{path.parent} holds an interrupted run with another value of: {', '.join(changed)}")
        for line in lines[1:]:
            self.results[line["folder"]] = Result(**line)
        # Written anew, for the last line may be half.
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(_line(each) for each in (options, *map(asdict, self.results.values()))))
        temporary.replace(path)
        self._file = path.open("a")

    def add(self, result: Result) -> None:
        """Write a result down, so that it is there even if the machine goes down now."""
        self.results[result.folder] = result
        self._file.write(_line(asdict(result)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, *, done: bool) -> None:
        """Close the file; with `done` remove it: the next run is a new one."""
        self._file.close()
        if done:
            self.path.unlink()


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the lines that were written to their end."""
    if not path.exists():
        return []
    *whole, _ = path.read_text().split("\n")
    return [json.loads(line) for line in whole]
