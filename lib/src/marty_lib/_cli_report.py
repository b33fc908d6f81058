"""How a command ends: exit codes, the one error that says what to do, and JSON for scripts."""

from __future__ import annotations

import json
import re
import signal
import sys
from enum import IntEnum
from typing import Any

CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")

# What asks a command to end; not every system has all.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Exit(IntEnum):
    """Exit codes of `marty`; scripts rely on them."""

    FINE = 0
    FINDINGS = 1
    USAGE = 2
    CANNOT = 3
    INTERRUPTED = 130


class Failure(Exception):
    """A command cannot do its work; nothing has been changed.

    Args:
        code: a word for scripts, such as `dirty`; listed in docs/cli.md.
        message: what is wrong, in one sentence.
        remedy: what to do about it, in one sentence.
    """

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, redacted(message), redacted(remedy)

    def as_json(self) -> dict[str, str]:
        """Return the error's part of a JSON document."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


def redacted(text: str) -> str:
    """Return the text without the user names and passwords of its addresses."""
    return CREDENTIALS.sub("***@", text)


def say(text: str = "") -> None:
    """Tell a person something on standard error, which leaves standard output to results."""
    print(redacted(text), file=sys.stderr, flush=True)


def print_json(document: dict[str, Any]) -> None:
    """Print the one document of a command that was called with `--json`."""
    print(json.dumps(document, indent=2))
