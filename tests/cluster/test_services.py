"""Every kind with every mesh, applied for real by the account of a pipeline, into a namespace with quota, limits and
the restricted standard; and one service deployed as its pages say, up to the pods that controllers make of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.pods import settled
from tests.conftest import ANSWERS, KINDS, MESHES, ROOT, Render
from tests.manifests.tools import Manifest, build, one, overlays, pods_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

# The name of a migration ends in the tag of its image, and a version has dots.
ACCEPTED = "Warning: metadata.name: this is used in Pod names and hostnames"
NAMESPACE = str(ANSWERS["namespace"])
APPLY = ("--server-side", "--force-conflicts", "--filename=-")


def pipeline(cluster: Kubectl, service: Path, namespace: str) -> Kubectl:
    """Have the administrator make the namespace of a service; return kubectl as the account of its pipeline."""
    cluster("apply", f"--filename={service / 'k8s' / 'base' / 'namespace.yaml'}")
    cluster("apply", f"--namespace={namespace}", f"--kustomize={ROOT / 'k8s' / 'policies' / 'namespace'}")
    eventually(lambda: bool(cluster.get("resourcequota", f"--namespace={namespace}")[0]["status"]), "the quota counts")
    return cluster.account("deployer", namespace)


@pytest.fixture(scope="module")
def deployer(cluster: Kubectl, render: Render) -> Kubectl:
    """kubectl as the account of the namespace that every service is rendered for."""
    return pipeline(cluster, render(service_kind="minimal"), NAMESPACE)


def stream(objects: list[Manifest]) -> str:
    """Return objects as kubectl reads them; without the namespace, on which server-side apply needs a right anyway."""
    items = [each for each in objects if each["kind"] != "Namespace"]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def pods(objects: list[Manifest]) -> list[Manifest]:
    """Return the pods that controllers make of an overlay's workloads."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "order-service", "uid": "of-the-replica-set"}
    metadata = {"generateName": "order-service-", "namespace": NAMESPACE, "ownerReferences": [owner]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**pod["metadata"], **metadata}, "spec": pod["spec"]}
        for pod in pods_of(objects)
    ]


def unexpected(said: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines in which the server warns; a call that fails fails the test."""
    assert said.returncode == 0, said.stdout + said.stderr
    return [line for line in said.stderr.splitlines() if not line.startswith(ACCEPTED)]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_applies_every_overlay(
    cluster: Kubectl, deployer: Kubectl, render: Render, kind: str, mesh: str
) -> None:
    folder = render(service_kind=kind, mesh=mesh) / "k8s" / "overlays"
    built = [build(folder / overlay) for overlay in overlays(mesh)]
    # Of one environment after the other, in one call. The last one is another development cluster's.
    environments = [each for objects in built[:3] for each in objects]
    for objects in [environments, *built[3:]]:
        deployer("delete", "jobs", "--all", f"--namespace={NAMESPACE}")
        assert unexpected(deployer.run("apply", "--validate=strict", *APPLY, given=stream(objects))) == []
    assert deployer.difference(*APPLY, given=stream(built[-1])) == ""
    made = [pod for objects in built for pod in pods(objects)]
    assert unexpected(cluster.run("create", "--dry-run=server", "--filename=-", given=stream(made))) == []


def deploy(deployer: Kubectl, service: Path, overlay: str) -> list[str]:
    """Deploy an overlay as the service's pages say; return the lines in which the server warns."""
    unwanted = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in deployer.environment().items() if name not in unwanted}
    command = ["make", "--no-print-directory", "deploy", f"OVERLAY={overlay}"]
    return unexpected(
        subprocess.run(command, cwd=service, env=environment, capture_output=True, text=True, check=False)
    )


def test_every_overlay_that_a_pipeline_deploys_gets_its_pods_and_then_nothing_differs(
    cluster: Kubectl, render: Render
) -> None:
    service = render(service_kind="database", mesh="istio", namespace="deployed")
    deployer = pipeline(cluster, service, "deployed")
    for overlay in overlays("istio"):
        assert deploy(deployer, service, overlay) == [], overlay
        assert deployer.difference(f"--kustomize={service / 'k8s' / 'overlays' / overlay}") == ""
        eventually(lambda: settled(cluster, "deployed"), f"{overlay} has its pods")


def privileged(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True


def huge(pod: Manifest) -> None:
    pod["containers"][0]["resources"]["limits"]["memory"] = "5Gi"


@pytest.mark.parametrize(
    ("change", "says"), [(privileged, "PodSecurity"), (huge, "maximum memory usage per Container is 4Gi")]
)
def test_pods_that_ask_for_more_are_refused(
    cluster: Kubectl, render: Render, change: Callable[[Manifest], None], says: str
) -> None:
    namespace = f"more-{change.__name__}"
    service = render(service_kind="minimal", namespace=namespace)
    deployer = pipeline(cluster, service, namespace)
    objects = build(service / "k8s" / "overlays" / "development")
    change(one(objects, "Deployment")["spec"]["template"]["spec"])
    assert deployer.run("apply", *APPLY, given=stream(objects)).returncode == 0
    with pytest.raises(AssertionError, match=says):
        eventually(lambda: settled(cluster, namespace), "it has its pods")
