"""Read old answers as a new release asks them. Copier would silently take the default for one it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from migrations.releases import Answer, Declaration
from migrations.repository import committed, git


def remap(declared: Iterable[Declaration], file: str) -> None:
    """Rewrite HEAD's answers into the answers file, and stage it: else Copier does not see it."""
    old = yaml.safe_load(committed(file))
    new = remapped(old, declared)
    if new != old:
        Path(file).write_text(yaml.safe_dump(new, allow_unicode=True), encoding="utf-8")
        git("add", "--", file)


def remapped(answers: Mapping[str, Any], declared: Iterable[Declaration]) -> dict[str, Any]:
    """Return answers as the newest of the declared releases asks them."""
    new = dict(answers)
    for each in declared:
        if isinstance(each, Answer) and each.question in new:
            change, value = each.change, new.pop(each.question)
            new[each.to or each.question] = change(value) if callable(change) else change.get(value, value)
    return new
