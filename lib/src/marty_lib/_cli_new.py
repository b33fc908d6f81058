"""`marty new`: render a service beside its place, then put it there at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copier import run_copy

from marty_lib._cli_answers import Answers
from marty_lib._cli_copier import DEFAULT_TEMPLATE, captured, copier_errors, unreachable
from marty_lib._cli_report import Failure, redacted


@dataclass(frozen=True)
class Rendered:
    """A service that was rendered.

    Args:
        folder: where it is, or would be.
        answers: what it was rendered from.
        files: its files, seen from the folder.
        dry: nothing was kept.
    """

    folder: Path
    answers: Answers
    files: list[str]
    dry: bool

    def as_json(self) -> dict[str, Any]:
        """Return the keys that docs/cli.md names."""
        return {
            "service": str(self.folder),
            "template": redacted(self.answers.source),
            "to": self.answers.version,
            "answers": self.answers.data,
            "files": self.files,
            "dry_run": self.dry,
        }


def new(
    folder: Path, *, template: str, to: str | None, data: Mapping[str, str], trust: bool, ask: bool, dry: bool
) -> Rendered:
    """Render a service.

    Args:
        folder: where it shall be; it is not there yet, or empty.
        template: its address, as Copier takes it.
        to: its version; None is the newest release.
        data: answers.
        trust: the template may run code; the project's own always may.
        ask: ask for what `data` does not answer, on the terminal.
        dry: keep nothing.

    Raises:
        Failure: it cannot be done; nothing was made.
    """
    folder = folder.absolute()
    check_empty(folder)
    source = str(Path(template).expanduser().resolve()) if Path(template).expanduser().is_dir() else template
    parent = next(each for each in folder.parents if each.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".marty-", dir=None if dry else parent) as outer:
            target = Path(outer, folder.name)
            render(source, target, to=to, data=data, trust=trust, ask=ask)
            answers = Answers.read(target)
            files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir())
            if not dry:
                folder.parent.mkdir(parents=True, exist_ok=True)
                target.replace(folder)
    except OSError as error:
        raise Failure(
            "cannot-write", f"The service cannot be written: {error}.", "Make room or mend the rights."
        ) from None
    return Rendered(folder, answers, files, dry)


def check_empty(folder: Path) -> None:
    """Refuse a place where something is.

    Raises:
        Failure: it is a file, or a folder with something in it.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or folder.is_symlink() or any(folder.iterdir())):
        raise Failure("not-empty", f"{folder} is there already.", "Choose another name, or move it away.")


def render(source: str, target: Path, *, to: str | None, data: Mapping[str, str], trust: bool, ask: bool) -> None:
    """Let Copier render; what it says is heard only where it asks."""
    asked = Answers(source, to or "newest release", dict(data))

    def copy() -> None:
        run_copy(
            source,
            target,
            data=dict(data),
            vcs_ref=to,
            defaults=not ask,
            quiet=True,
            unsafe=trust or source == DEFAULT_TEMPLATE,
        )

    with copier_errors(source), unreachable(asked, to or "newest release", rendering=True):
        if ask:
            copy()
        else:
            with captured():
                copy()
