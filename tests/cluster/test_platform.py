"""What is in k8s/, applied for real: the API server takes every field, warns of nothing, and has nothing to change."""

from __future__ import annotations

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.pods import settled
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

K8S = ROOT / "k8s"
# The folders, and the namespace where the kustomization leaves it to the call.
FOLDERS = {
    "policies": "",
    "policies/namespace": "default",
    "ingress/issuers": "",
    "mesh/istio": "",
    "ingress/istio": "",
    "mesh/linkerd": "",
    "observability": "",
    "observability/operator": "",
}
# As k8s/lib.sh has it.
APPLY = ("apply", "--server-side", "--force-conflicts", "--validate=strict")


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_applies_and_then_nothing_differs(cluster: Kubectl, folder: str) -> None:
    namespace = FOLDERS[folder]
    what = [f"--kustomize={K8S / folder}", *([f"--namespace={namespace}"] if namespace else [])]
    for _ in range(2):
        cluster(*APPLY, *what)
        assert cluster.difference("--server-side", "--force-conflicts", *what) == ""


@pytest.mark.parametrize("namespace", ["monitoring", "kafka"])
def test_the_pods_that_observe_are_taken(cluster: Kubectl, namespace: str) -> None:
    cluster(*APPLY, f"--kustomize={K8S / 'observability'}")
    eventually(lambda: settled(cluster, namespace), f"all pods of {namespace} are made")
