"""The cluster's scripts against stand-ins that note the calls: their order, a second run, and what fails half-way."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MESHES, ROOT

K8S = ROOT / "k8s"
TOOLS = ("docker", "kind", "kubectl", "helm", "istioctl", "linkerd", "curl", "sleep")
# All that the scripts may take for granted.
BASICS = ("awk", "bash", "cat", "dirname", "env", "grep", "mv", "rm", "sed")
STEPS = {
    "docker run": "registry",
    "kind create cluster": "cluster marty",
    "docker network connect": "nodes pull from the registry",
    "cert-manager.yaml": "Gateway API, cert-manager, metrics-server",
    "istioctl --context kind-marty install": "istio",
    "--kustomize " + str(K8S / "mesh"): "rules of the mesh",
    "k8s/ingress/issuers": "ingress",
    "k8s/ingress/istio": "ingress",
    "gateway/shared-gateway": "ingress",
    "k8s/policies": "policies",
    "k8s/observability": "observability",
}


# What the shared Gateway is made of where Istio is not.
ENVOY_GATEWAY = (
    "--filename " + str(K8S / "ingress" / "envoy" / "namespaces.yaml"),
    "helm template gateway-crds",
    "upgrade --install envoy-gateway",
)


class Machine:
    """A machine with stand-ins for the tools, and nothing else but the basics."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.state = folder / "bin", folder / "state"
        self.environment: dict[str, str] = {}
        self.bin.mkdir()
        self.state.mkdir()
        for name in BASICS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name in TOOLS:
            (self.bin / name).symlink_to(ROOT / "tests" / "manifests" / "stand_in.sh")

    def run(self, script: str, *arguments: str, fail: str = "") -> subprocess.CompletedProcess[str]:
        """Run a script of k8s/; calls that contain `fail` fail."""
        environment = {"PATH": str(self.bin), "STATE": str(self.state), "FAIL": fail} | self.environment
        command = [str(K8S / script), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def calls(self) -> list[str]:
        """Return the calls since this was asked last."""
        file = self.state / "calls"
        found = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def cluster(machine: Machine) -> Callable[..., Machine]:
    """Return a function that makes a cluster on the machine."""

    def make(*arguments: str) -> Machine:
        made = machine.run("setup-cluster.sh", *arguments)
        assert made.returncode == 0, made.stderr
        machine.calls()
        return machine

    return make


def positions(calls: list[str], *parts: str) -> list[int]:
    """Return where each part is called first; each must be."""
    found = [next((at for at, call in enumerate(calls) if part in call), None) for part in parts]
    assert None not in found, [part for part, at in zip(parts, found, strict=True) if at is None]
    return [at for at in found if at is not None]


@pytest.mark.parametrize(
    ("mesh", "between"),
    [
        ("none", ENVOY_GATEWAY),
        ("istio", ("istioctl --context kind-marty install", "--kustomize " + str(K8S / "mesh"))),
        (
            "linkerd",
            (
                "install-cni",
                "check --pre",
                "install --crds",
                "install --linkerd-cni-enabled",
                "--kustomize " + str(K8S / "mesh"),
                *ENVOY_GATEWAY,
            ),
        ),
    ],
)
def test_the_parts_are_made_in_their_order(machine: Machine, mesh: str, between: tuple[str, ...]) -> None:
    made = machine.run("setup-cluster.sh", "--service-mesh", mesh)
    assert made.returncode == 0, made.stderr
    found = positions(
        machine.calls(),
        "docker run",
        "kind create cluster --name marty",
        "docker network connect kind",
        "gateway-api",
        "cert-manager",
        "metrics-server",
        *between,
        "--kustomize " + str(K8S / "ingress" / "issuers"),
        "--kustomize " + str(K8S / "ingress" / {"none": "envoy"}.get(mesh, mesh)),
        "condition=Programmed gateway/shared-gateway",
        "apply --server-side --force-conflicts --kustomize " + str(K8S / "policies"),
        "apply --server-side --force-conflicts --kustomize " + str(K8S / "observability"),
    )
    assert found == sorted(found)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_second_run_makes_nothing_twice(cluster: Callable[..., Machine], mesh: str) -> None:
    machine = cluster("--service-mesh", mesh)
    assert machine.run("setup-cluster.sh", "--service-mesh", mesh).returncode == 0
    again = machine.calls()
    made_once = ("docker run", "kind create", "docker network connect", "linkerd --context kind-marty install -")
    assert not [call for call in again if any(part in call for part in made_once)]
    assert [call for call in again if " upgrade --linkerd-cni-enabled" in call] or mesh != "linkerd"
    assert [call for call in again if "apply" in call]


def test_a_registry_that_was_stopped_is_started(cluster: Callable[..., Machine]) -> None:
    machine = cluster()
    (machine.state / "registry").write_text("false\n")
    assert machine.run("setup-cluster.sh").returncode == 0
    assert "docker start marty-registry" in machine.calls()


@pytest.mark.parametrize(("fails", "step"), STEPS.items())
def test_a_step_that_fails_is_named_and_the_next_run_goes_on(machine: Machine, fails: str, step: str) -> None:
    failed = machine.run("setup-cluster.sh", "--service-mesh", "istio", fail=fails)
    assert failed.returncode == 1
    assert f"this step failed: {step}" in failed.stderr
    assert "k8s/cleanup.sh --name marty" in failed.stderr
    before = machine.calls()
    assert fails in before[-1]

    assert machine.run("setup-cluster.sh", "--service-mesh", "istio").returncode == 0
    both = before[:-1] + machine.calls()
    assert len([call for call in both if call.startswith("kind create")]) == 1


@pytest.mark.parametrize("script", ["setup-cluster.sh", "validate.sh"])
@pytest.mark.parametrize("mesh", MESHES)
def test_no_other_cluster_is_touched(cluster: Callable[..., Machine], script: str, mesh: str) -> None:
    machine = cluster("--service-mesh", mesh, "--name", "mine")
    assert machine.run(script, "--service-mesh", mesh, "--name", "mine").returncode == 0
    clients = [call for call in machine.calls() if call.startswith(("kubectl", "helm", "istioctl", "linkerd"))]
    assert clients
    # Rendering a chart speaks to no cluster.
    speaking = [call.split(maxsplit=1)[1] for call in clients if not call.startswith("helm template")]
    assert not [call for call in speaking if not call.startswith(("--context kind-mine ", "--kube-context kind-mine "))]


def test_a_cluster_keeps_the_mesh_that_it_was_made_with(cluster: Callable[..., Machine]) -> None:
    refused = cluster("--service-mesh", "istio").run("setup-cluster.sh", "--service-mesh", "linkerd")
    assert refused.returncode == 1
    assert "made with --service-mesh istio" in refused.stderr


def test_observability_can_be_left_out(machine: Machine) -> None:
    assert machine.run("setup-cluster.sh", "--no-observability").returncode == 0
    assert not [call for call in machine.calls() if "observability" in call]


@pytest.mark.parametrize(
    ("mesh", "missing"),
    [
        ("none", ["kind", "kubectl", "helm"]),
        ("istio", ["istioctl"]),
        ("linkerd", ["linkerd", "helm"]),
        ("istio", ["docker", "kind"]),
    ],
)
def test_all_tools_that_are_missing_are_named_and_nothing_is_done(
    machine: Machine, mesh: str, missing: list[str]
) -> None:
    for tool in missing:
        (machine.bin / tool).unlink()
    refused = machine.run("setup-cluster.sh", "--service-mesh", mesh)
    assert refused.returncode == 1
    for tool in missing:
        assert f"{tool} is missing: " in refused.stderr
    assert machine.calls() == []


def test_helm_is_needed_only_where_a_chart_is_installed(cluster: Callable[..., Machine]) -> None:
    machine = cluster("--service-mesh", "istio")
    (machine.bin / "helm").unlink()
    for script in ("setup-cluster.sh", "validate.sh"):
        assert machine.run(script, "--service-mesh", "istio").returncode == 0
    assert machine.run("cleanup.sh").returncode == 0


@pytest.mark.parametrize("fails", ["template gateway-crds", "upgrade --install envoy-gateway", "k8s/ingress/envoy"])
@pytest.mark.parametrize("mesh", ["none", "linkerd"])
def test_a_controller_that_fails_stops_the_step_and_the_next_run_goes_on(
    machine: Machine, mesh: str, fails: str
) -> None:
    failed = machine.run("setup-cluster.sh", "--service-mesh", mesh, fail=fails)
    assert failed.returncode == 1
    assert "this step failed: ingress" in failed.stderr
    assert not [call for call in machine.calls() if "k8s/policies" in call]
    assert machine.run("setup-cluster.sh", "--service-mesh", mesh).returncode == 0


def test_what_a_webhook_refuses_at_first_is_tried_again_for_a_minute(machine: Machine) -> None:
    assert machine.run("setup-cluster.sh", fail="ingress/issuers").returncode == 1
    calls = machine.calls()
    assert len([call for call in calls if "ingress/issuers" in call]) == 12
    assert calls.count("sleep 5") == 11


def test_envoy_gateway_is_pinned_and_leaves_the_gateway_api_alone(machine: Machine) -> None:
    assert machine.run("setup-cluster.sh").returncode == 0
    version = re.findall(r"^ENVOY_GATEWAY_VERSION=(.+)$", (K8S / "versions.env").read_text(), re.MULTILINE)[0]
    charts = [call for call in machine.calls() if call.startswith("helm")]
    assert len(charts) == 2
    assert all(f"--version {version} " in call for call in charts)
    definitions, controller = charts
    assert "crds.gatewayAPI.enabled=false" in definitions
    assert "--skip-crds" in controller


def test_an_engine_that_does_not_answer_is_named(machine: Machine) -> None:
    refused = machine.run("setup-cluster.sh", fail="docker info")
    assert refused.returncode == 1
    assert "no Docker engine answers" in refused.stderr
    assert machine.calls() == ["docker info"]


@pytest.mark.parametrize("script", ["setup-cluster.sh", "cleanup.sh", "validate.sh"])
@pytest.mark.parametrize("arguments", [["--what"], ["--name"], ["--name", "No Name"], ["--name", "--keep-registry"]])
def test_a_wrong_call_does_nothing(machine: Machine, script: str, arguments: list[str]) -> None:
    refused = machine.run(script, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{script}: {arguments[0]}")
    assert machine.calls() == []


@pytest.mark.parametrize("script", ["setup-cluster.sh", "cleanup.sh", "validate.sh"])
def test_help_shows_every_option(machine: Machine, script: str) -> None:
    shown = machine.run(script, "--help")
    assert shown.returncode == 0
    (known,) = re.findall(r'^options (.+) -- "\$@"$', (K8S / script).read_text(), re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", shown.stdout.partition("\n\n")[2].partition("\n")[0])) == set(known.split())
    assert machine.calls() == []


def test_cleaning_up_removes_cluster_and_registry_and_may_be_done_twice(cluster: Callable[..., Machine]) -> None:
    machine = cluster()
    for _ in range(2):
        assert machine.run("cleanup.sh").returncode == 0
    calls = machine.calls()
    assert [call for call in calls if " delete " in call or " rm " in call] == [
        "kind delete cluster --name marty",
        "docker rm --force --volumes marty-registry",
    ]


@pytest.mark.parametrize("arguments", [["--name", "other"], ["--keep-registry"]])
def test_the_registry_stays_for_other_clusters_and_on_request(
    cluster: Callable[..., Machine], arguments: list[str]
) -> None:
    machine = cluster()
    assert machine.run("setup-cluster.sh", "--name", "other").returncode == 0
    if arguments == ["--keep-registry"]:
        assert machine.run("cleanup.sh", "--name", "other").returncode == 0
    assert machine.run("cleanup.sh", *arguments).returncode == 0
    assert not [call for call in machine.calls() if "docker rm" in call]


@pytest.mark.parametrize("mesh", MESHES)
def test_a_cluster_that_is_whole_is_valid(cluster: Callable[..., Machine], mesh: str) -> None:
    valid = cluster("--service-mesh", mesh).run("validate.sh", "--service-mesh", mesh)
    assert valid.returncode == 0, valid.stdout
    assert "WRONG" not in valid.stdout


@pytest.mark.parametrize(
    ("fails", "wrong"),
    [
        ("condition=Ready nodes", "all nodes are ready"),
        ("curl --fail", "the registry answers"),
        ("refused/root.yaml", "what must not be is refused: root"),
        ("istioctl", "Istio finds no mistake"),
        ("gateway/shared-gateway", "the shared Gateway is up"),
        ("certificate/shared-gateway", "it has a certificate"),
        ("http_code", "it leads from HTTP to HTTPS"),
    ],
)
def test_what_is_wrong_is_named_after_all_is_looked_at(cluster: Callable[..., Machine], fails: str, wrong: str) -> None:
    invalid = cluster("--service-mesh", "istio").run("validate.sh", "--service-mesh", "istio", fail=fails)
    assert invalid.returncode == 1
    assert [line.split(":")[0] for line in invalid.stdout.splitlines() if line.startswith("WRONG")] == [
        f"WRONG  {wrong.split(':', maxsplit=1)[0]}"
    ]
    assert "ok     observability is up" in invalid.stdout


def test_there_must_be_a_cluster_to_be_valid(machine: Machine) -> None:
    refused = machine.run("validate.sh")
    assert refused.returncode == 1
    assert "make it with k8s/setup-cluster.sh" in refused.stderr


def test_what_the_page_tells_to_type_is_understood(machine: Machine) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    commands = re.findall(r"^    k8s/(\S+\.sh)(.*)$", page, re.MULTILINE)
    assert {script for script, _ in commands} == {"setup-cluster.sh", "validate.sh", "cleanup.sh"}
    for script, arguments in commands:
        done = machine.run(script, *arguments.split())
        assert done.returncode == 0, done.stderr
