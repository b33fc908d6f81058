"""What one object says of another is true: labels, ports, hosts, names, durations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import KINDS, MESHES
from tests.manifests.tools import (
    Built,
    Manifest,
    environment,
    group_of,
    one,
    overlays,
    pick,
    pod_of,
    pods_of,
    ports,
    service_container,
)


def selectors(node: Any) -> Iterator[dict[str, str]]:
    """Yield the labels by which an object selects pods of its own namespace."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in {"selector", "podSelector", "labelSelector"} and value:
            yield value.get("matchLabels", value)
        for child in value if isinstance(value, list) else [value]:
            yield from selectors(child)


def test_every_selector_matches_the_pods(manifests: list[Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods_of(manifests)]
    # An Istio Gateway selects the pods of the gateway, which are another's.
    own = [each for each in manifests if (group_of(each), each["kind"]) != ("networking.istio.io", "Gateway")]
    found = [selector for each in own for selector in selectors(each.get("spec", {}))]
    assert len(found) >= 6
    assert not [selector for selector in found if not any(selector.items() <= each.items() for each in labels)]


def test_every_port_of_the_service_is_one_of_the_container(manifests: list[Manifest]) -> None:
    service = {port["name"]: (port["port"], port["targetPort"]) for port in one(manifests, "Service")["spec"]["ports"]}
    assert service == {name: (number, name) for name, number in ports(manifests).items()}


def test_every_port_of_the_service_says_what_it_speaks(manifests: list[Manifest]) -> None:
    spoken = {port["name"]: port["appProtocol"] for port in one(manifests, "Service")["spec"]["ports"]}
    assert spoken == {name: "grpc" if name == "grpc" else "http" for name in ports(manifests)}


def test_the_ingress_leads_to_the_http_port_of_the_service(manifests: list[Manifest]) -> None:
    paths = [path for each in pick(manifests, "Ingress") for path in each["spec"]["rules"][0]["http"]["paths"]]
    target = {"name": one(manifests, "Service")["metadata"]["name"], "port": {"name": "http"}}
    assert all(path["backend"] == {"service": target} for path in paths)
    assert not paths or "http" in ports(manifests)


def test_every_port_that_is_listened_on_is_declared(manifests: list[Manifest]) -> None:
    found = environment(manifests)
    listening = {name[:-5].lower(): int(value) for name, value in found.items() if name.endswith("_PORT")}
    assert listening == ports(manifests)
    assert {value for name, value in found.items() if name.endswith("_HOST")} == {"0.0.0.0"}  # noqa: S104


def test_every_probe_asks_the_operations_port(manifests: list[Manifest]) -> None:
    container = service_container(manifests)
    found = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    paths = {"startup": "/health/startup", "liveness": "/health/live", "readiness": "/health/ready"}
    assert found == {name: {"path": path, "port": "ops"} for name, path in paths.items()}


def test_prometheus_is_led_to_the_operations_port(manifests: list[Manifest]) -> None:
    annotations = pod_of(manifests)["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports(manifests)["ops"])


def test_network_policies_name_only_ports_of_the_container(manifests: list[Manifest]) -> None:
    rules = [rule for policy in pick(manifests, "NetworkPolicy") for rule in policy["spec"].get("ingress", [])]
    named = {port["port"] for rule in rules for port in rule["ports"] if isinstance(port["port"], str)}
    assert named == ports(manifests).keys()


def test_network_policies_deny_what_they_do_not_list(manifests: list[Manifest]) -> None:
    for policy in pick(manifests, "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule.get("from") and rule.get("ports") for rule in policy["spec"].get("ingress", []))
        assert all(rule.get("to") for rule in policy["spec"].get("egress", []))


def test_the_grace_period_exceeds_the_drain(manifests: list[Manifest]) -> None:
    found = environment(manifests)
    drain = float(found["DRAIN_DELAY"]) + float(found["DRAIN_TIMEOUT"])
    assert drain < pod_of(manifests)["spec"]["terminationGracePeriodSeconds"]


def test_an_accepted_request_ends_within_the_drain(manifests: list[Manifest]) -> None:
    found = environment(manifests)
    waits = [float(found[f"{door}_REQUEST_TIMEOUT"]) for door in ("HTTP", "GRPC") if f"{door}_PORT" in found]
    assert all(0 < wait <= float(found["DRAIN_TIMEOUT"]) for wait in waits)


def test_the_autoscaler_scales_the_deployment_which_fixes_no_number_itself(manifests: list[Manifest]) -> None:
    deployment, spec = one(manifests, "Deployment"), one(manifests, "HorizontalPodAutoscaler")["spec"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert spec["scaleTargetRef"] == target
    assert "replicas" not in deployment["spec"]
    assert spec["minReplicas"] <= spec["maxReplicas"]
    assert {each["containerResource"]["container"] for each in spec["metrics"]} == {"service"}


def test_the_pod_runs_under_the_service_account_that_exists(manifests: list[Manifest]) -> None:
    assert pod_of(manifests)["spec"]["serviceAccountName"] == one(manifests, "ServiceAccount")["metadata"]["name"]


def test_every_object_is_in_the_namespace_that_is_created(manifests: list[Manifest]) -> None:
    name = one(manifests, "Namespace")["metadata"]["name"]
    assert {each["metadata"].get("namespace", name) for each in manifests} == {name}
    assert [each["kind"] for each in manifests if "namespace" not in each["metadata"]] == ["Namespace"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", MESHES)
def test_each_overlay_stands_for_its_environment(built: Built, kind: str, mesh: str) -> None:
    expected = {
        "development": "development",
        "staging": "staging",
        "production": "production",
        "service-mesh": "staging",
    }
    found = {overlay: environment(built(kind, mesh, overlay))["ENVIRONMENT"] for overlay in overlays(mesh)}
    assert found == {overlay: expected[overlay] for overlay in overlays(mesh)}
