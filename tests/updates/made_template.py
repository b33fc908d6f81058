"""A small template with a history, to try migrations on: real Git, real `copier update`, little to render."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from copier import run_copy

from tests.conftest import ROOT
from tests.updates.history import copier, git

Content = str | bytes | None
ANSWERS_FILE = "{{_copier_conf.answers_file}}.jinja"


@dataclass
class Template:
    """A template that grows release by release; its migrations are this repository's, with a table of its own."""

    folder: Path
    questions: dict[str, Any] = field(default_factory=lambda: {"service_name": {"type": "str"}})

    def __post_init__(self) -> None:
        self.folder.mkdir()
        git(self.folder, "init", "--quiet")
        shutil.copytree(ROOT / "migrations", self.folder / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
        write(self.folder / "template", {ANSWERS_FILE: "{{ _copier_answers | to_nice_yaml }}"})

    def release(self, version: str, files: Mapping[str, Content], *declared: str) -> None:
        """Commit and tag a release: files that change (None: goes), and lines of its row in the table."""
        write(self.folder / "template", files)
        config = yaml.safe_load((ROOT / "copier.yml").read_text())
        settings = {"_subdirectory": "template", "_migrations": config["_migrations"]}
        (self.folder / "copier.yml").write_text(yaml.safe_dump(settings | self.questions, sort_keys=False))
        table = f'RELEASES: dict[str, list[Declaration]] = {{"{version}": [{", ".join(declared)}]}}'
        head, _, rest = (ROOT / "migrations/releases.py").read_text().partition("RELEASES: ")
        (self.folder / "migrations/releases.py").write_text(head + table + rest[rest.index("\n}\n") + 2 :])
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "--message", version)
        git(self.folder, "tag", f"v{version}")

    def render(self, service: Path, version: str, *, url: str = "", **answers: Any) -> Path:
        """Render a release into a repository, and commit it; the template is cloned from its folder, or a URL."""
        data = {"service_name": "order-service"} | answers
        quiet = {"vcs_ref": f"v{version}", "defaults": True, "quiet": True, "unsafe": True}
        run_copy(url or str(self.folder), service, data, **quiet)  # type: ignore[arg-type]
        git(service, "init", "--quiet")
        return commit(service, {})


def write(folder: Path, files: Mapping[str, Content]) -> None:
    """Write files; None removes one."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def commit(service: Path, files: Mapping[str, Content]) -> Path:
    """Do what an owner does: write files and commit."""
    write(service, files)
    git(service, "add", "--all")
    git(service, "commit", "--quiet", "--allow-empty", "--message", "Work")
    return service


def update(service: Path, *arguments: str) -> str:
    """Run `copier update` as an owner does; return what it says."""
    ended = copier("update", "--trust", "--defaults", *arguments, cwd=service)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def tree(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Return content and executable bit of each file, without Git's own."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): (path.read_bytes(), os.access(path, os.X_OK)) for path in found}
