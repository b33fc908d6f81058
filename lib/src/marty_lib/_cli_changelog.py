"""What the template's changelog says about the versions that an update passes."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.version import InvalidVersion, Version

from marty_lib._cli_git import git

HEADING = re.compile(r"^## +\[?v?([\w.+-]+)\]?.*$", re.MULTILINE)


def between(template: Path, old: Version, new: Version) -> str:
    """Return the sections after the old version, up to the new one, as Markdown; newest first, as they stand."""
    page = template / "CHANGELOG.md"
    if not page.is_file():
        return ""
    text = page.read_text(encoding="utf-8", errors="replace")
    heads = list(HEADING.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    sections = zip(heads, ends, strict=True) if heads else ()
    return "\n\n".join(text[head.start() : end].strip() for head, end in sections if passed(head[1], old, new))


def passed(name: str, old: Version, new: Version) -> bool:
    """Tell whether an update passes what a heading names; what is unreleased counts between releases."""
    if name.lower() == "unreleased":
        return new.local is not None or new.is_postrelease
    version = parsed(name)
    return version is not None and old < version <= new


def releases(template: Path, old: Version, new: Version) -> list[str]:
    """Return the tags after the old version, up to the new one, oldest first."""
    tags = git(template, "tag", "--list").decode().split()
    found = [(version, tag) for tag in tags if (version := parsed(tag)) is not None and old < version <= new]
    return [tag for version, tag in sorted(found) if not version.is_prerelease or version == new]


def parsed(name: str) -> Version | None:
    """Return what a tag or heading names as a version."""
    try:
        return Version(name)
    except InvalidVersion:
        return None
