"""`.github/workflows/e2e.yml`: what its steps call is there, and they do what they are for, played by stand-ins."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.template.test_build_files import run, tool

FILE = ROOT / ".github" / "workflows" / "e2e.yml"
WORKFLOW: dict[Any, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
JOB = WORKFLOW["jobs"]["path"]
STEPS: list[dict[str, Any]] = JOB["steps"]
RUNS = {step["name"]: step["run"] for step in STEPS if "run" in step}
SCRIPT = re.compile(r"^\s*((?:k8s|\.ci)/\S+)(.*)$", re.MULTILINE)
MAKE = re.compile(r"^\s*make (\S+)", re.MULTILINE)
REPORT = ROOT / ".ci" / "cluster-report"
# Plays kubectl: says what it was asked, but where the script reads the answer; lists two pods, and knows no usage.
KUBECTL = """#!/bin/bash
case "$*" in
  *"get pods --all-namespaces --no-headers"*) printf 'shop one-1\\nshop two-2\\n'; exit ;;
esac
printf 'kubectl %s\\n' "$*"
case "$*" in
  *" top "*) echo "no metrics"; exit 1 ;;
  *"two-2"*"--previous"*) exit 1 ;;
esac
"""


def test_every_script_that_it_calls_is_there_and_knows_the_options() -> None:
    called = [(script, options) for step in RUNS.values() for script, options in SCRIPT.findall(step)]
    assert {script for script, _ in called} == {
        ".ci/cluster-report",
        "k8s/cleanup.sh",
        "k8s/install-tools.sh",
        "k8s/setup-cluster.sh",
        "k8s/validate.sh",
    }
    for script, options in called:
        path = ROOT / script
        assert path.stat().st_mode & 0o111, script
        assert set(re.findall(r"--[a-z-]+", options)) <= set(re.findall(r"--[a-z-]+", path.read_text())), script


def test_every_target_that_it_makes_is_there() -> None:
    targets = [target for step in RUNS.values() for target in MAKE.findall(step)]
    assert targets == [".venv/dev", "e2e"]
    for target in targets:
        run("make", "--dry-run", target, cwd=ROOT)


def test_it_goes_the_whole_path_for_both_meshes_in_order() -> None:
    assert JOB["strategy"]["matrix"]["mesh"] == ["istio", "linkerd"]
    calls = ["install-tools.sh", "setup-cluster.sh", "validate.sh", "make e2e", "cluster-report", "cleanup.sh"]
    text = "\n".join(RUNS.values())
    assert [text.index(call) for call in calls] == sorted(text.index(call) for call in calls)


def test_teardown_comes_always_and_the_report_after_a_failure() -> None:
    conditions = {step.get("name", step.get("uses", "")): step.get("if") for step in STEPS}
    (teardown,) = (name for name, commands in RUNS.items() if "cleanup.sh" in commands)
    (report,) = (name for name, commands in RUNS.items() if "cluster-report" in commands)
    (upload,) = (name for name in conditions if name.startswith("actions/upload-artifact"))
    assert conditions[teardown] == "always()"
    assert conditions[report] == conditions[upload] == "failure()"
    assert [name for name, condition in conditions.items() if condition] == [report, upload, teardown]


def test_it_runs_nightly_by_hand_and_where_a_cluster_may_change() -> None:
    # YAML reads `on` as true.
    events = WORKFLOW[True]
    assert set(events) == {"schedule", "pull_request", "workflow_dispatch"}
    for path in events["pull_request"]["paths"]:
        assert (ROOT / path.removesuffix("/**")).exists(), path


def test_it_may_read_the_repository_and_nothing_else_and_every_step_ends() -> None:
    assert WORKFLOW["permissions"] == {}
    assert JOB["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in step for step in STEPS if "run" in step)
    assert sum(step.get("timeout-minutes", 0) for step in STEPS) <= JOB["timeout-minutes"] + 30


def test_its_actions_are_the_pinned_ones_of_the_other_workflows() -> None:
    others = [file for file in FILE.parent.glob("*.yml") if file != FILE]
    pinned = set(re.findall(r"uses: (\S+@[0-9a-f]{40} # \S+)", "\n".join(file.read_text() for file in others)))
    used = re.findall(r"uses: (.+)$", FILE.read_text(), re.MULTILINE)
    assert used
    assert set(used) <= pinned


# The steps, played ----------------------------------------------------------------------------------------------------


def play(folder: Path, name: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run a step's commands as GitHub does, with stand-ins for programs and, without their ending, for scripts."""
    (folder / "bin").mkdir()
    for program, script in programs.items():
        path = folder / "bin" / program
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    commands = re.sub(r"(?:k8s|\.ci)/(\S+)", r"\1", RUNS[name]).replace(".sh", "")
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "MESH": "istio",
        "RUNNER_TEMP": str(folder / "temp"),
        "GITHUB_PATH": str(folder / "path"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", commands]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_tools_are_on_the_path_of_the_steps_that_follow(tmp_path: Path) -> None:
    played = play(tmp_path, "Install the tools", **{"install-tools": 'echo "$*"', "make": 'echo "$*"', "uv": "echo py"})
    assert played.returncode == 0, played.stderr
    assert played.stdout.splitlines() == [
        f"--service-mesh istio --into {tmp_path}/temp/bin",
        ".venv/dev PYTHON=py",
    ]
    assert (tmp_path / "path").read_text() == f"{tmp_path}/temp/bin\n"


@pytest.mark.parametrize(("left", "code"), [("", 0), ("0123abcd", 1)])
def test_what_is_left_fails_the_teardown(tmp_path: Path, left: str, code: int) -> None:
    name = "Tear down, and see that nothing is left"
    played = play(tmp_path, name, cleanup="echo cleaned", docker=f'[[ $* == *--quiet* ]] && echo "{left}" || true')
    assert played.returncode == code, played.stderr
    assert played.stdout.count("cleaned") == 2
    assert ("has left containers" in played.stdout) == bool(code)


def test_a_cleanup_that_fails_fails_the_teardown(tmp_path: Path) -> None:
    played = play(tmp_path, "Tear down, and see that nothing is left", cleanup="exit 3", docker="true")
    assert played.returncode == 3


# The report -----------------------------------------------------------------------------------------------------------


def test_the_report_holds_objects_events_descriptions_and_logs_whatever_fails(tmp_path: Path) -> None:
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    report = tmp_path / "report"
    done = subprocess.run(
        [REPORT, "kind-marty", report], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(report).as_posix(): path.read_text() for path in report.rglob("*") if path.is_file()}
    assert set(files) == {
        "nodes.txt",
        "pods.txt",
        "events.txt",
        "describe.txt",
        "routes.yaml",
        "usage.txt",
        "logs/shop-one-1.txt",
        "logs/shop-one-1-before.txt",
        "logs/shop-two-2.txt",
    }
    assert "ended with 1" in files["usage.txt"]
    assert all("--context kind-marty" in text for text in files.values())


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two", "three"]])
def test_a_wrong_call_of_the_report_is_refused(arguments: list[str]) -> None:
    refused = subprocess.run([REPORT, *arguments], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "name a context and a folder" in refused.stderr


def test_shellcheck_passes_the_report() -> None:
    run(tool("shellcheck"), str(REPORT))
