"""What the cluster refuses, and who refuses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.cluster.access import Cluster
from tests.e2e.cluster.manifests import namespace, pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

REFUSED = sorted((ROOT / "k8s" / "policies" / "refused").glob("*.yaml"))
STRICT = "strict"
DEPLOYER = f"system:serviceaccount:{STRICT}:deployer"


@pytest.fixture(scope="module")
def strict(cluster: Cluster) -> Iterator[str]:
    """A namespace with all that k8s/policies/namespace brings."""
    cluster.apply(namespace(STRICT))
    cluster.kubectl("apply", "--namespace", STRICT, "-k", str(ROOT / "k8s" / "policies" / "namespace"))
    yield STRICT
    cluster.kubectl("delete", "namespace", STRICT)


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.stem)
def test_what_must_not_be_is_refused_by_the_policy_that_is_for_it(cluster: Cluster, file: Path) -> None:
    refused = cluster.try_kubectl("create", "-f", str(file))
    assert refused.code != 0
    assert f"marty-{file.stem}" in refused.output


def test_a_pod_with_an_image_that_is_not_always_the_same_is_refused(cluster: Cluster, strict: str) -> None:
    wanted = json.dumps(pod("latest", strict, "localhost:5001/order-service:latest"))
    refused = cluster.try_kubectl("create", "-f", "-", given=wanted)
    assert refused.code != 0
    assert "marty-latest" in refused.output


def test_the_same_pod_with_a_version_is_admitted(cluster: Cluster, strict: str) -> None:
    wanted = json.dumps(pod("latest", strict, "localhost:5001/order-service:0.1.0"))
    assert "created" in cluster.kubectl("create", "--dry-run=server", "-f", "-", given=wanted)


def test_a_pod_that_may_gain_rights_is_refused_by_pod_security(cluster: Cluster, strict: str) -> None:
    manifest = pod("strong", strict, "localhost:5001/order-service:0.1.0")
    del manifest["spec"]["containers"][0]["securityContext"]
    refused = cluster.try_kubectl("create", "-f", "-", given=json.dumps(manifest))
    assert refused.code != 0
    assert "PodSecurity" in refused.output


def test_a_port_of_the_nodes_is_refused_by_the_quota(cluster: Cluster, strict: str) -> None:
    refused = cluster.try_kubectl("create", "service", "nodeport", "open", "--tcp=80:80", "--namespace", strict)
    assert refused.code != 0
    assert "exceeded quota" in refused.output


@pytest.mark.parametrize(
    ("verb", "resource", "answer"),
    [("create", "deployments.apps", "yes"), ("get", "secrets", "no"), ("create", "pods/exec", "no")],
)
def test_a_pipeline_deploys_and_reads_no_secret(
    cluster: Cluster, strict: str, verb: str, resource: str, answer: str
) -> None:
    asked = cluster.try_kubectl("auth", "can-i", verb, resource, "--as", DEPLOYER, "--namespace", strict)
    assert asked.output.splitlines()[-1] == answer
