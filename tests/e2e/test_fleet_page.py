"""What docs/fleet.md tells to type works when it is typed, and its job fits the workflow that it calls."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from marty_lib._cli_fleet_journal import BRANCH_EXISTS, CONFLICTS, CURRENT, FAILED, TESTS_FAILED, UPDATED

from tests.conftest import ANSWERS, ROOT
from tests.e2e.pages import Terminal, blocks, clean_environment
from tests.updates.history import IDENTITY, copier, git, kinds_of, older, tagged_clone

PAGE = (ROOT / "docs" / "fleet.md").read_text()
OUTCOMES = [UPDATED, CURRENT, BRANCH_EXISTS, CONFLICTS, TESTS_FAILED, FAILED]
WORKFLOW = ROOT / ".github" / "workflows" / "fleet.yml"
KINDS = {"order-service": "minimal", "user-service": "fastapi"}


@pytest.fixture
def services(tmp_path: Path) -> Path:
    """Services as the last release whose template is not today's has rendered them."""
    history = tagged_clone(tmp_path / "marty")
    version = next(version for version, commit in reversed(older().items()) if {*KINDS.values()} <= {*kinds_of(commit)})
    for name, kind in KINDS.items():
        folder = tmp_path / "services" / name
        answers = {**ANSWERS, "service_name": name, "service_kind": kind}
        data = [f"--data={key}={value}" for key, value in answers.items()]
        flags = ("--trust", "--defaults", "--quiet", f"--vcs-ref=v{version}")
        ended = copier("copy", *flags, *data, str(history), str(folder), cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        git(folder, "init", "--quiet", "--initial-branch=main")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message=Render")
    return tmp_path / "services"


@pytest.mark.slow
def test_what_the_page_tells_to_type_works(services: Path) -> None:
    environment = clean_environment() | IDENTITY
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    terminal = Terminal(services.parent, environment, lambda text: text, "")
    typed = blocks(PAGE)
    for block in typed:
        if not block.elsewhere:
            terminal.type(block)

    assert [block.elsewhere for block in typed].count(True) == 1
    for name in KINDS:
        branch = git(services / name, "branch", "--list", "marty/*").strip()
        assert branch == "marty/update-v9999.0.0"
        assert "_commit: v9999.0.0" in git(services / name, "show", f"{branch}:.copier-answers.yml")
        assert git(services / name, "status", "--porcelain") == ""


def test_the_page_names_every_code_of_a_failure() -> None:
    sources = [path.read_text() for path in (ROOT / "lib/src/marty_lib").glob("_cli_fleet*.py")]
    codes = {code for text in sources for code in re.findall(r"Failure\(\s*\"([a-z-]+)\"", text)}

    assert len(codes) > 8
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_the_page_names_every_outcome() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE) == OUTCOMES


def workflow() -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
    return found


def test_the_job_of_the_page_fits_the_workflow() -> None:
    example = next(token.content for token in MarkdownIt().parse(PAGE) if token.info == "yaml")
    job = yaml.safe_load(example)["jobs"]["fleet"]
    called = workflow()[True]["workflow_call"]  # YAML takes `on` for a boolean

    assert job["uses"].partition("@")[0] == "org/marty/.github/workflows/fleet.yml"
    assert {*job["with"]} <= {*called["inputs"]}
    assert {*job["secrets"]} == {name for name, secret in called["secrets"].items() if secret["required"]}
    for name in called["inputs"]:
        assert f"`{name}`" in PAGE or name in job["with"], f"the page does not say what {name} is"


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a step of the workflow, where programs are stand-ins that note their arguments."""

    def run(step: str, programs: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "bin").mkdir()
        for name, text in programs.items():
            (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >>calls\n{text}\n')
            (tmp_path / "bin" / name).chmod(0o755)
        steps = workflow()["jobs"]["update"]["steps"]
        command = next(each["run"] for each in steps if each.get("name") == step)
        environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"} | variables
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
        return subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_workflow_clones_what_has_the_topic(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    programs = {"gh": "printf 'shop/orders\\nshop/users\\n'", "git": ""}
    ended = script("Clone the services", programs, OWNER="shop", TOPIC="marty")

    assert ended.returncode == 0, ended.stderr
    calls = (tmp_path / "calls").read_text()
    assert "repo\nlist\nshop\n--topic\nmarty\n" in calls
    assert "clone\n--quiet\nhttps://github.com/shop/users.git\nservices/shop/users\n" in calls


def test_the_workflow_says_where_no_repository_has_the_topic(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = script("Clone the services", {"gh": "", "git": ""}, OWNER="shop", TOPIC="marty")

    assert ended.returncode == 1
    assert "::error::No repository of shop has the topic marty" in ended.stdout


@pytest.mark.parametrize(("to", "options"), [("", []), ("v1.0.0", ["--to", "v1.0.0"])])
def test_the_workflow_calls_the_command(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, to: str, options: list[str]
) -> None:
    ended = script("Update them, and open pull requests", {"uv": "exit 1"}, MARTY="marty-lib[cli]", TEST="", TO=to)

    assert ended.returncode == 1, "the job fails where a service needs somebody"
    flags = ["--pr", "--trust", "--report", "report", "--test", "", *options]
    called = ["uv", "tool", "run", "--from", "marty-lib[cli]", "marty", "fleet", "update", "services", *flags]
    assert (tmp_path / "calls").read_text().split("\n")[:-1] == called
