"""The weekly workflow of a rendered service: what it does with what `marty update` says."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.servers.requirement import missing
from tests.updates.history import IDENTITY, git
from tests.updates.small import LINES, MARTY, commit, marty, write

WORKFLOW = ROOT / "template/.github/workflows/template-update.yml"
# Its `uv tool run --from "marty-lib[cli]" marty` is the command of this checkout.
UV = """\
#!/bin/sh
test "$1 $2 $3 $4 $5" = "tool run --from marty-lib[cli] marty" || exit 64
shift 5
exec {command} "$@"
"""


@pytest.fixture
def script() -> str:
    """The step that takes what is new."""
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["update"]["steps"]
    (step,) = (each for each in steps if each.get("id") == "update")
    return str(step["run"])


def run(script: str, service: Path) -> tuple[int, dict[str, str], str]:
    """Run a step as GitHub does; return its exit code, its outputs, and what it prints."""
    if shutil.which("jq") is None:
        missing("jq is not on the PATH")
    machine = service.parent
    write(machine / "bin", {"uv.sh": UV.format(command=shlex.join(MARTY))})
    (machine / "bin/uv.sh").rename(machine / "bin/uv")
    (machine / "outputs").touch()
    variables = {
        "PATH": f"{machine / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": str(machine / ".gitconfig"),
        "GITHUB_OUTPUT": str(machine / "outputs"),
        "RUNNER_TEMP": str(machine),
    }
    ended = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script],
        cwd=service,
        env={**os.environ, **IDENTITY, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    outputs = (machine / "outputs").read_text().splitlines()
    return ended.returncode, dict(line.split("=", 1) for line in outputs), ended.stdout + ended.stderr


def test_a_clean_update_becomes_a_branch_named_after_its_version(script: str, service: Path) -> None:
    code, outputs, said = run(script, service)
    assert (code, outputs) == (0, {"branch": "template-update/v2.0.0"}), said
    assert (service.parent / "changelog.md").read_text().startswith("## 2.0.0")
    assert "A  code/more.py" in git(service, "status", "--porcelain")


def test_nothing_new_becomes_no_branch(script: str, service: Path) -> None:
    assert marty(service, "update").code == 0
    commit(service, "Update")
    code, outputs, said = run(script, service)
    assert (code, outputs) == (0, {}), said
    assert "There is nothing new" in said


def test_a_conflict_fails_and_names_the_files(script: str, service: Path) -> None:
    write(service, {"text.md": LINES.replace("line 2\n", "line deux\n")})
    commit(service, "Edit")
    code, outputs, said = run(script, service)
    assert (code, outputs) == (1, {}), said
    assert "text.md\n::error::The update needs you" in said


def test_what_cannot_be_done_is_said(script: str, service: Path) -> None:
    write(service, {"own.txt": "mine\n"})
    code, outputs, said = run(script, service)
    assert (code, outputs) == (3, {}), said
    assert "::error::Not everything is committed: own.txt." in said
