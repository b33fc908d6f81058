"""The releases of this repository, and a clone in which they are tagged."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.conftest import ROOT

IDENTITY = {
    "GIT_AUTHOR_NAME": "Owner",
    "GIT_AUTHOR_EMAIL": "owner@example.com",
    "GIT_COMMITTER_NAME": "Owner",
    "GIT_COMMITTER_EMAIL": "owner@example.com",
}
PARTS = ("copier.yml", "template", "extensions", "migrations")
NEWEST = "9999.0.0"  # what the working tree is tagged with, as the next release would be
VERSION = re.compile(r'^version = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
KIND = re.compile(r'^    "([a-z-]+)": frozenset', re.MULTILINE)


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as an owner with an identity; return what it prints."""
    command = ["git", "-C", str(folder), "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, env=os.environ | IDENTITY, capture_output=True, text=True, check=True).stdout


def releases() -> dict[str, str]:
    """Return version and commit of each release, oldest first: the commits that change the version."""
    found: dict[str, str] = {}
    for commit in git(ROOT, "log", "--reverse", "--format=%H", "--", "pyproject.toml").split():
        version = VERSION.search(git(ROOT, "show", f"{commit}:pyproject.toml"))
        if version:
            found.setdefault(version[1], commit)
    return found


def older() -> dict[str, str]:
    """Return the releases whose template is not the one of the working tree."""
    return {
        version: commit
        for version, commit in releases().items()
        if git(ROOT, "diff", "--name-only", commit, "--", *PARTS)
    }


def kinds_of(commit: str) -> list[str]:
    """Return the kinds of service that a commit renders."""
    rows = git(ROOT, "show", f"{commit}:extensions/kinds.py").partition("KINDS")[2].partition("\n}")[0]
    return KIND.findall(rows)


def exported(commit: str, folder: Path) -> Path:
    """Write the template of a commit into a folder, without its history."""
    archive = ["git", "-C", str(ROOT), "archive", commit, *PARTS, "lib/pyproject.toml"]
    printed = subprocess.run(archive, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(printed)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def tagged_clone(folder: Path) -> Path:
    """Clone this repository, tag its releases, and commit on top what the working tree has besides.

    The newest state is tagged too, with a version after all others, as the next release would be.
    """
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder))
    for version, commit in releases().items():
        git(folder, "tag", "--force", f"v{version}", commit)
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").strip("\0").split("\0"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            shutil.copy(source, target)
        else:
            target.unlink(missing_ok=True)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "The working tree")
    git(folder, "tag", f"v{NEWEST}")
    return folder


def copier(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Copier as an owner would, and return how it ended."""
    command = [sys.executable, "-W", "ignore", "-m", "copier", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | IDENTITY, capture_output=True, text=True, check=False)
