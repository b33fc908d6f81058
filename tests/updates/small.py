"""A template of a few files with releases of its own, for what the commands do where the real one would be slow."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from marty_lib.cli import app
from typer.testing import CliRunner

from tests.updates.history import IDENTITY, copier, git

# A shell without job control starts what runs in the background deaf to Ctrl-C.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
MARTY = [sys.executable, "-W", "ignore", "-c", f"{HEARING}; from marty_lib.cli import run; run()"]
SETTINGS = """\
_subdirectory: template
_migrations:
  - version: 2.0.0
    when: "{{ _stage == 'after' }}"
    command: ["{{ _copier_python }}", "{{ _copier_conf.src_path }}/migrate.py"]
service_name: {type: str, default: orders}
port: {type: int, default: 8000}
"""
ANSWERS_FILE = "# Written by Copier\n{{ _copier_answers|to_nice_yaml -}}\n"
MIGRATE = """\
import os, sys
print("a migration has run")
sys.exit(int(os.environ.get("MIGRATION_EXIT", 0)))
"""
LINES = "".join(f"line {number}\n" for number in range(1, 21))
FIRST = {
    "text.md": LINES,
    "port.md.jinja": "{{ port }}\n",
    "code/old.py": LINES.replace("line", "code"),
    "code/gone.py": "gone = 1\n",
    "run.sh": "#!/bin/sh\nexit 0\n",
    "{{ _copier_conf.answers_file }}.jinja": ANSWERS_FILE,
}
SECOND = {
    "text.md": LINES.replace("line 2\n", "line two\n"),
    "code/new.py": FIRST["code/old.py"],
    "code/more.py": "more = 1\n",
}
CHANGELOG = """\
# Changelog

## 2.0.0 (2026-02-02)

- What you do: nothing.

## 1.0.0 (2026-01-01)

- The first release.
"""


class Ended(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it has printed for scripts."""
        document: dict[str, Any] = json.loads(self.out)
        return document


def commit(folder: Path, message: str) -> None:
    """Commit everything."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files; those that end in `.sh` can be executed."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith(".sh"):
            path.chmod(0o755)


def make_template(folder: Path) -> Path:
    """Make a template with the releases 1.0.0 and 2.0.0."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    write(folder, {"copier.yml": SETTINGS, "migrate.py": MIGRATE, "CHANGELOG.md": CHANGELOG})
    write(folder, {"lib/pyproject.toml": '[project]\nname = "marty-lib"\nversion = "1.0.0"\n'})
    write(folder / "template", FIRST)
    commit(folder, "1.0.0")
    git(folder, "tag", "v1.0.0")
    for name in ("code/old.py", "code/gone.py"):
        (folder / "template" / name).unlink()
    write(folder / "template", SECOND)
    commit(folder, "2.0.0")
    git(folder, "tag", "v2.0.0")
    return folder


def make_service(template: Path, folder: Path, *, repository: bool = True) -> Path:
    """Render release 1.0.0, and commit it."""
    ended = copier(
        "copy", "--trust", "--defaults", "--quiet", "--vcs-ref=v1.0.0", str(template), str(folder), cwd=template
    )
    assert ended.returncode == 0, ended.stderr
    if repository:
        git(folder, "init", "--quiet")
        commit(folder, "Render")
    return folder


def marty(folder: Path, *arguments: str, **variables: str) -> Ended:
    """Run the command in a folder, in this process: starting another takes longer than most commands do."""
    environment: dict[str, str | None] = {**IDENTITY, "MARTY_TRUST": "1", **variables}
    with contextlib.chdir(folder):
        ended = CliRunner().invoke(app, arguments, env=environment)
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the command as a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [*MARTY, *arguments],
        cwd=folder,
        env={**os.environ, **IDENTITY, "MARTY_TRUST": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of each file, but git's own."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*"))}
    return {
        str(name): (path.lstat().st_mode, os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes())
        for name, path in files.items()
        if ".git" not in name.parts and (path.is_symlink() or path.is_file())
    }


def state(folder: Path) -> tuple[object, ...]:
    """Return all that a command that fails must leave as it was: files, git's index, and what is under way."""
    index = git(folder, "ls-files", "--stage")
    return content(folder), index, git(folder, "rev-parse", "HEAD"), sorted((folder / ".git").glob("marty*"))
