"""What the API server itself says to what the policies are for: their CEL, their bindings, the standard of pods."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import CREATE, REFUSED
from tests.cluster.kubectl import Kubectl, eventually
from tests.conftest import MESHES, ROOT
from tests.e2e.cluster.manifests import pod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

POLICIES = ("latest", "limits", "name", "root")
# The platform's own.
EXEMPT = ("kube-system", "kube-public", "kube-node-lease")

Manifest = dict[str, Any]


def read(name: str, namespace: str = "default") -> Manifest:
    """Return what a policy is to refuse, for a namespace."""
    manifest: Manifest = yaml.safe_load((REFUSED / f"{name}.yaml").read_text())
    manifest["metadata"]["namespace"] = namespace
    return manifest


def good() -> Manifest:
    """Return a workload that no policy is against."""
    manifest = read("root")
    manifest["spec"]["template"]["spec"]["securityContext"] = {"runAsNonRoot": True}
    return manifest


def pod_spec(manifest: Manifest) -> Manifest:
    """Return the pod of a Deployment."""
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def refusals(cluster: Kubectl, manifest: Manifest) -> set[str]:
    """Return the names of the policies that refuse an object; anything else that is against it fails the test."""
    done = cluster.run(*CREATE, "--filename=-", given=json.dumps(manifest))
    named = set(re.findall(r"ValidatingAdmissionPolicy '([^']+)' with binding '\1' denied request", done.stderr))
    assert bool(named) == bool(done.returncode), done.stderr
    return named


def test_no_file_is_left_out() -> None:
    assert sorted(file.stem for file in REFUSED.iterdir()) == list(POLICIES)


def test_the_server_has_nothing_against_the_policies_expressions(cluster: Kubectl) -> None:
    def checked() -> bool:
        return all("typeChecking" in policy["status"] for policy in cluster.get("validatingadmissionpolicies"))

    eventually(checked, "the server has looked at all policies")
    found = {each["metadata"]["name"]: each["status"] for each in cluster.get("validatingadmissionpolicies")}
    assert set(found) == {f"marty-{name}" for name in POLICIES}
    assert [status["typeChecking"] for status in found.values()] == [{}] * len(found)


@pytest.mark.parametrize("name", POLICIES)
def test_what_must_not_be_is_refused_by_the_policy_of_its_name_alone(cluster: Kubectl, name: str) -> None:
    assert refusals(cluster, read(name)) == {f"marty-{name}"}


def test_what_is_as_it_must_be_is_taken(cluster: Kubectl) -> None:
    assert refusals(cluster, good()) == set()


@pytest.mark.parametrize("mesh", MESHES)
def test_what_services_are_tried_with_is_taken(cluster: Kubectl, mesh: str) -> None:
    database = list(yaml.safe_load_all((ROOT / "k8s/trial/postgresql.yaml").read_text()))
    image = "localhost:5001/shop-ledger:dev"
    pods = [pod("one", "default", image, mesh=mesh), pod("two", "default", image, scraped=True)]
    assert [refusals(cluster, manifest) for manifest in database + pods] == [set()] * len(database + pods)


@pytest.mark.parametrize("namespace", EXEMPT)
def test_the_platforms_own_namespaces_are_left_alone(cluster: Kubectl, namespace: str) -> None:
    assert [refusals(cluster, read(name, namespace)) for name in POLICIES] == [set()] * len(POLICIES)


@pytest.mark.parametrize(
    ("image", "admitted"),
    [
        ("localhost:5001/order-service", False),
        ("localhost:5001/order-service:latest", False),
        ("localhost:5001/order-service:dev", True),
        ("order-service", False),
        ("registry.example.com/a/b@sha256:" + "a" * 64, True),
        ("registry.example.com/a/b@sha256:short", False),
    ],
)
def test_an_image_has_a_tag_or_a_digest(cluster: Kubectl, image: str, admitted: bool) -> None:
    manifest = good()
    pod_spec(manifest)["containers"][0]["image"] = image
    assert refusals(cluster, manifest) == (set() if admitted else {"marty-latest"})


@pytest.mark.parametrize("kind", ["Pod", "Job", "CronJob"])
def test_all_that_makes_pods_is_looked_into(cluster: Kubectl, kind: str) -> None:
    template = read("latest")["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    spec = {
        "Pod": template["spec"],
        "Job": {"template": template},
        "CronJob": {"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}},
    }[kind]
    metadata = {"name": "refused", "namespace": "default", "labels": template["metadata"]["labels"]}
    version = "v1" if kind == "Pod" else "batch/v1"
    manifest = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
    assert refusals(cluster, manifest) == {"marty-latest"}


@pytest.mark.parametrize("pods", [True, False, None])
@pytest.mark.parametrize("own", [True, False, None])
def test_what_a_container_says_of_root_overrides_what_its_pod_says(
    cluster: Kubectl, own: bool | None, pods: bool | None
) -> None:
    manifest = good()
    pod = pod_spec(manifest)
    pod["securityContext"] = {} if pods is None else {"runAsNonRoot": pods}
    pod["containers"][0]["securityContext"] = {} if own is None else {"runAsNonRoot": own}
    assert refusals(cluster, manifest) == (set() if (pods if own is None else own) else {"marty-root"})


@pytest.mark.parametrize(
    ("change", "policy"),
    [
        ({"image": "first:latest"}, "marty-latest"),
        ({"resources": {}}, "marty-limits"),
        ({"securityContext": {"runAsNonRoot": False}}, "marty-root"),
    ],
)
def test_init_containers_are_looked_into(cluster: Kubectl, change: Manifest, policy: str) -> None:
    manifest = good()
    pod = pod_spec(manifest)
    pod["initContainers"] = [{**pod["containers"][0], "name": "first"}]
    assert refusals(cluster, manifest) == set()
    pod["initContainers"][0] |= change
    assert refusals(cluster, manifest) == {policy}


def test_pods_of_a_workload_are_taken_with_what_a_mesh_has_put_into_them(cluster: Kubectl) -> None:
    template = read("latest")["spec"]["template"]
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "refused", "uid": "of-the-replica-set"}
    metadata = {"name": "refused", "namespace": "default", "ownerReferences": [owner]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    assert refusals(cluster, pod) == set()
