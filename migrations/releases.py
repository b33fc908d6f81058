"""What each release renames, drops and asks anew: one line each. `run.py` does it during `copier update`.

Paths are seen from the service's folder; `{package}` is its Python package. Add lines to the release to come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import Version


@dataclass(frozen=True)
class Rename:
    """A file or folder has a new path: the owner's edits, and own files in the folder, move along."""

    old: str
    new: str


@dataclass(frozen=True)
class Drop:
    """A file or folder is gone: what the owner has edited of it stays, and the update says so."""

    path: str


@dataclass(frozen=True)
class Answer:
    """An answer reads otherwise: a mapping of old values to new ones, or a function; `to` is its new name, if any."""

    question: str
    change: Mapping[Any, Any] | Callable[[Any], Any] = lambda answer: answer
    to: str = ""


@dataclass(frozen=True)
class Key:
    """A key of a TOML or YAML file gets a value, unless the owner has chosen one: then the update says so.

    `key` is its path, such as `("tool", "ruff", "line-length")`; a number selects an item of a list. `was` None means
    that the key was not there; `value` None removes it.
    """

    path: str
    key: tuple[str | int, ...]
    value: Any
    was: Any = None


Declaration = Rename | Drop | Answer | Key

RELEASES: dict[str, list[Declaration]] = {
    "0.2.0": [Rename("k8s/overlays/dev", "k8s/overlays/development")],
}


def between(old: str, new: str, releases: Mapping[str, list[Declaration]] = RELEASES) -> list[Declaration]:
    """Return what was declared after the version `old`, up to `new`, oldest first."""
    span = [version for version in releases if Version(old) < Version(version) <= Version(new)]
    return [declaration for version in sorted(span, key=Version) for declaration in releases[version]]
