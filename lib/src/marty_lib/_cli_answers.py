"""The answers file of a service: `.copier-answers.yml`, which says what was rendered, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marty_lib._cli_report import Failure

FILE = ".copier-answers.yml"
RESTORE = f"Restore it from git: git log --oneline -- {FILE}, then git checkout COMMIT -- {FILE}."


@dataclass(frozen=True)
class Answers:
    """What the answers file says.

    Args:
        source: the template's address, as Copier takes it.
        version: of the template that rendered the service, a tag or what `git describe` says.
        data: the answers to questions.
    """

    source: str
    version: str
    data: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Answers:
        """Read the file of a service.

        Raises:
            Failure: there is none, it is no YAML, or it does not say what Copier needs.
        """
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise Failure(
                "answers-missing", f"{folder} has no {FILE}: nothing says what rendered it.", RESTORE
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Failure("answers-corrupt", f"{FILE} cannot be read: {error}.", RESTORE) from None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Answers:
        """Read what stands in a file.

        Raises:
            Failure: it is no YAML, or it does not say what Copier needs.
        """
        import yaml  # Copier brings it

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            where = str(getattr(error, "problem_mark", "") or "").strip()
            raise Failure("answers-corrupt", f"{FILE} is no YAML{' ' + where if where else ''}.", RESTORE) from None
        if not isinstance(found, dict):
            raise Failure("answers-corrupt", f"{FILE} holds no answers.", RESTORE)
        for key, meaning in (("_src_path", "the template's address"), ("_commit", "the template's version")):
            if not isinstance(found.get(key), str) or not found[key]:
                raise Failure("answers-corrupt", f"{FILE} has no {key}, {meaning}, as text.", RESTORE)
        data = {str(name): value for name, value in found.items() if not str(name).startswith("_")}
        return cls(found["_src_path"], found["_commit"], data)
