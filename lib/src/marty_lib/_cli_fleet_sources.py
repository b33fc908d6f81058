"""The template's sources: each is asked for its releases once, and cloned once, for all services that come from it."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import cached_property
from pathlib import Path

from packaging.version import InvalidVersion, Version

from marty_lib._cli_fleet_processes import Failed, git

FORGES = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
DESCRIBED = re.compile(r"-\d+-g[0-9a-f]+$")


class Source:
    """One source of the template.

    Args:
        spelled: its address as the services' answers have it.
    """

    def __init__(self, spelled: str) -> None:
        self.address = address(spelled)

    @property
    def remote(self) -> bool:
        """Whether Copier would clone it over the network."""
        return not Path(self.address).exists()

    @cached_property
    def releases(self) -> dict[Version, str]:
        """The releases and their tags, oldest first; prereleases are none.

        Raises:
            Failed: where the source does not answer.
        """
        listed = git(Path.cwd(), "ls-remote", "--tags", "--refs", "--", self.address).splitlines()
        tags = [line.partition("refs/tags/")[2] for line in listed]
        versions = {version(tag): tag for tag in tags}
        return {found: versions[found] for found in sorted(v for v in versions if v and not v.is_prerelease)}

    def target(self, wanted: str | None) -> str:
        """Return the tag to update to: the newest one, or the one that is asked for.

        Raises:
            Failed: where there is no such tag.
        """
        if wanted is None:
            if not self.releases:
                raise Failed(f"{self.address} has no release: tag one")
            return list(self.releases.values())[-1]
        tag = self.releases.get(version(wanted) or Version("0"))
        if tag is None:
            raise Failed(
                f"{self.address} has no release {wanted}: it has {', '.join(self.releases.values()) or 'none'}"
            )
        return tag

    def has_reached(self, at: str, tag: str) -> bool:
        """Tell whether a version is a release's, or a later one."""
        known, wanted = known_version(at), version(tag)
        return known is not None and wanted is not None and known >= wanted

    def behind(self, at: str, tag: str) -> int | None:
        """Return how many releases lead from a version to a tag; None where that is no release, nor follows one."""
        known, wanted = known_version(at), version(tag)
        if known is None or wanted is None:
            return None
        return sum(known < release <= wanted for release in self.releases)

    def share(self, folder: Path) -> dict[str, str]:
        """Bring this source's mirror up to date, and return the git configuration that sends children to it.

        Args:
            folder: that holds the mirrors of all sources; it outlives the run.

        Raises:
            Failed: where the source does not answer.
        """
        if not self.remote:
            return {}
        mirror = folder / f"{hashlib.sha256(self.address.encode()).hexdigest()[:16]}.git"
        if mirror.exists():
            git(mirror, "--git-dir=.", "fetch", "--quiet", "--prune", "--tags", "origin", "+refs/*:refs/*")
        else:
            self._clone(mirror)
        return {f"url.{mirror}.insteadOf": self.address}

    def _clone(self, mirror: Path) -> None:
        mirror.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=mirror.parent) as folder:  # so that no half mirror stays behind
            half = Path(folder, "mirror.git")
            git(mirror.parent, "clone", "--quiet", "--mirror", "--", self.address, str(half))
            try:
                half.rename(mirror)
            except OSError:
                if not mirror.exists():  # else another run was faster
                    raise


def address(spelled: str) -> str:
    """Return an address as Copier gives it to git."""
    for forge, url in FORGES.items():
        if spelled.startswith(forge):
            name = spelled.removeprefix(forge).lstrip("/")
            return f"{url}{name.removesuffix('.git')}.git"
    if spelled.startswith("git+"):
        return spelled.removeprefix("git+")
    if spelled.startswith(tuple(FORGES.values())):
        return spelled.removesuffix(".git") + ".git"
    return str(Path(spelled).expanduser()) if spelled.startswith("~") else spelled


def version(text: str) -> Version | None:
    """Return the version that a text is, or None."""
    try:
        return Version(text)
    except InvalidVersion:
        return None


def known_version(described: str) -> Version | None:
    """Return the release that a commit is or follows, from what `git describe` says of it."""
    return version(DESCRIBED.sub("", described))


def configuration(settings: dict[str, str]) -> dict[str, str]:
    """Return the variables that give git some configuration, besides what they give already."""
    first = int(os.environ.get("GIT_CONFIG_COUNT", "0"))
    found = {"GIT_CONFIG_COUNT": str(first + len(settings))} if settings else {}
    for number, (key, value) in enumerate(settings.items(), first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found
