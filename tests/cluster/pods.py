"""Whether workloads get their pods, which the controllers make, and which admission may refuse."""

from __future__ import annotations

from tests.cluster.kubectl import Kubectl
from tests.manifests.tools import Manifest

FAILED = ("FailedCreate", "ReplicaFailure")


def settled(kubectl: Kubectl, namespace: str) -> bool:
    """Return whether every workload of a namespace has a pod of its newest template; one that is refused fails."""
    kinds = "deployments,statefulsets,jobs"
    workloads = kubectl.get(kinds, f"--namespace={namespace}")
    assert workloads
    for each in workloads:
        conditions = {condition["type"]: condition for condition in each.get("status", {}).get("conditions", [])}
        assert "ReplicaFailure" not in conditions, conditions["ReplicaFailure"]["message"]
    if all(has_pod(each) for each in workloads):
        return True
    events = kubectl.get("events", f"--namespace={namespace}", "--field-selector=reason=FailedCreate")
    assert not events, [event["message"] for event in events]
    return False


def has_pod(workload: Manifest) -> bool:
    """Return whether there is a pod of the newest template."""
    status = workload.get("status", {})
    if workload["kind"] == "Job":
        return bool(status.get("active"))
    current = status.get("observedGeneration") == workload["metadata"]["generation"]
    return current and bool(status.get("updatedReplicas"))
