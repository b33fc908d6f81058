"""A small template with three releases, services of it, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OWNER = {f"GIT_{role}_{what}": "Owner" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
COPIER = """\
_subdirectory: template
service_name: {type: str}
service_kind: {type: str, default: fastapi}
"""
CHANGELOG = """\
# Changelog

## 2.0.0 (2026-03-01)

- **What you do**: nothing.

## 1.1.0 (2026-02-01)

- A greeting.

## 1.0.0 (2026-01-01)

- The first release.
"""
RELEASES = {"v1.0.0": "one\n", "v1.1.0": "one\ngreeting\n", "v2.0.0": "two\ngreeting\n"}


def git(folder: Path, *arguments: str) -> str:
    """Run git as an owner; return what it prints."""
    command = ["git", "-C", str(folder), "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(command, env=os.environ | OWNER, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path, message: str) -> None:
    """Commit everything in a folder."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def make_template(folder: Path) -> Path:
    """Make a template with the releases."""
    (folder / "template").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "copier.yml").write_text(COPIER)
    (folder / "template/{{ _copier_conf.answers_file }}.jinja").write_text("{{ _copier_answers | to_nice_yaml }}")
    (folder / "template/README.md.jinja").write_text("# {{ service_name }}\n")
    (folder / "template/.gitignore").write_text("*.log\n")
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    for tag, text in RELEASES.items():
        (folder / "template/text.txt").write_text(text)
        commit(folder, tag)
        git(folder, "tag", tag)
    return folder


def make_service(template: Path, folder: Path, version: str = "v1.0.0", kind: str = "fastapi") -> Path:
    """Write what Copier renders into a folder, without committing it."""
    folder.mkdir(parents=True)
    answers = {"_commit": version, "_src_path": template, "service_kind": kind, "service_name": folder.name}
    (folder / ".copier-answers.yml").write_text("".join(f"{name}: {value}\n" for name, value in answers.items()))
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "README.md").write_text(f"# {folder.name}\n")
    (folder / "text.txt").write_text(RELEASES[version])
    return folder


def make_repository(template: Path, folder: Path, version: str = "v1.0.0", kind: str = "fastapi") -> Path:
    """Write a service into a repository of its own, and commit it."""
    make_service(template, folder, version, kind)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Render")
    return folder


class Fleet:
    """The command, run on some services as somebody would run it whose home is empty.

    Args:
        home: an empty folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.services = home / "services"
        self.report = home / "report"
        self.environment = os.environ | OWNER | {"XDG_CACHE_HOME": str(home / "cache"), "COLUMNS": "200"}

    def command(self, *arguments: object) -> list[str]:
        """Return the command line of `marty fleet`."""
        return [sys.executable, "-m", "marty_lib.cli", "fleet", *map(str, arguments)]

    def run(self, *arguments: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `marty fleet`, which must exit with a code."""
        ended = subprocess.run(
            self.command(*arguments), env=self.environment | variables, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def updating(self, *arguments: object) -> list[object]:
        """Return the arguments of an update of all services, with a report."""
        return ["update", self.services, "--report", self.report, *arguments]

    def update(self, *arguments: object, code: int = 0, **variables: str) -> dict[str, dict[str, Any]]:
        """Update all services; return the report's by their names."""
        printed = self.run(*self.updating("--json", *arguments), code=code, **variables).stdout
        document = json.loads(printed)
        written = json.loads((self.report / "report.json").read_text())
        assert written["services"] == document["services"]
        return {service["name"]: service for service in document["services"]}
