"""What a service may add to an overlay: faults, limits, ambient mode. Each is whole, and touches nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from extensions.kinds import DOORS
from extensions.kinds import KINDS as FEATURES
from tests.conftest import KINDS, ROOT, Render
from tests.manifests.test_pod_security import violations
from tests.manifests.tools import (
    Built,
    Composed,
    Manifest,
    build,
    compose,
    group_of,
    is_canary,
    name_of,
    one,
    pick,
    pod_of,
    ports,
    problems,
)

MESHES = ("istio", "linkerd")
WITH_DOORS = [kind for kind in KINDS if DOORS & FEATURES[kind]]
ADDED = [(kind, mesh, part) for kind in WITH_DOORS for mesh in MESHES for part in ("faults", "rate-limit")]
CASES = [
    *((kind, mesh, (mesh, part)) for kind, mesh, part in ADDED),
    *((kind, "istio", ("istio-ambient",)) for kind in KINDS),
    *((kind, "istio", ("istio-ambient", "faults")) for kind in WITH_DOORS),
]
PAGE = (ROOT / "docs/rollout.md").read_text()


@pytest.fixture(params=CASES, ids=lambda case: "-".join((case[0], *case[2])))
def case(request: pytest.FixtureRequest) -> tuple[str, str, tuple[str, ...]]:
    """Kind, mesh and the components of each overlay that a reader of docs/rollout.md may make."""
    found: tuple[str, str, tuple[str, ...]] = request.param
    return found


@pytest.fixture
def manifests(case: tuple[str, str, tuple[str, ...]], composed: Composed) -> list[Manifest]:
    """Return the objects of such an overlay."""
    kind, mesh, components = case
    return composed(kind, mesh, "service-mesh", *components)


@pytest.fixture(params=WITH_DOORS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind that clients call."""
    return str(request.param)


@pytest.fixture(params=MESHES)
def mesh(request: pytest.FixtureRequest) -> str:
    """Each mesh."""
    return str(request.param)


def keyed(manifests: list[Manifest]) -> dict[tuple[str, str, str], Manifest]:
    """Return objects by group, kind and name."""
    return {(group_of(each), each["kind"], name_of(each)): each for each in manifests}


def doors(manifests: list[Manifest]) -> dict[str, int]:
    """Return the ports that clients call, by name."""
    return {name: port for name, port in ports(manifests).items() if name != "ops"}


def test_every_object_satisfies_its_strict_schema(manifests: list[Manifest]) -> None:
    found = {name: problems(each) for name, each in keyed(manifests).items()}
    assert not {name: wrong for name, wrong in found.items() if wrong}
    assert len(found) == len(manifests)


def test_every_pod_conforms_to_the_restricted_standard(manifests: list[Manifest]) -> None:
    pods = [each["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for each in pick(manifests, kind)]
    assert pods
    assert not [each for pod in pods for each in violations(pod)]


def test_every_object_is_in_the_namespace(manifests: list[Manifest]) -> None:
    assert {each["metadata"].get("namespace", name_of(each)) for each in manifests} == {"shop"}


@pytest.mark.parametrize(
    ("part", "touched"), [("faults", {"VirtualService", "HTTPRoute", "GRPCRoute"}), ("rate-limit", set())]
)
def test_faults_and_limits_change_nothing_but_routes(
    built: Built, composed: Composed, kind: str, mesh: str, part: str, touched: set[str]
) -> None:
    before, after = (
        keyed(each) for each in (built(kind, mesh, "service-mesh"), composed(kind, mesh, "service-mesh", mesh, part))
    )
    assert before.keys() <= after.keys()
    assert before != after
    assert {key[1] for key in before if before[key] != after[key]} <= touched


@pytest.mark.parametrize("header", ["x-fault: abort", "x-fault: delay", "x-canary: always"])
def test_the_page_names_the_headers(header: str) -> None:
    assert header in PAGE


# Faults


def test_istio_makes_faults_only_for_those_who_ask_and_before_all_else(composed: Composed, kind: str) -> None:
    manifests = composed(kind, "istio", "service-mesh", "istio", "faults")
    entries = one(manifests, "VirtualService")["spec"]["http"]
    faults = [entry for entry in entries if "fault" in entry]
    assert faults == entries[: len(faults)]
    for entry in faults:
        ((name, fault),) = entry["fault"].items()
        assert fault["percentage"] == {"value": 100}
        assert all(match["headers"] == {"x-fault": {"exact": name}} for match in entry["match"])
        assert name_of(one(manifests, "Service")) == entry["route"][0]["destination"]["host"]
    reached = [(*entry["fault"], entry["route"][0]["destination"]["port"]["number"]) for entry in faults]
    assert sorted(reached) == sorted((name, port) for name in ("abort", "delay") for port in doors(manifests).values())


def test_linkerd_leads_those_who_ask_and_nobody_else_to_the_proxy_that_makes_faults(
    composed: Composed, kind: str
) -> None:
    manifests = composed(kind, "linkerd", "service-mesh", "linkerd", "faults")
    routes = [each for each in manifests if each["kind"] in {"HTTPRoute", "GRPCRoute"}]
    routes = [each for each in routes if each["spec"]["parentRefs"][0]["kind"] == "Service"]
    assert routes
    for route in routes:
        common, asked = route["spec"]["rules"]
        port = common["backendRefs"][0]["port"]
        assert asked["backendRefs"] == [{"name": "order-service-faults", "port": port}]
        header = {"type": "RegularExpression", "name": "x-fault", "value": "abort|delay"}
        assert [match["headers"] for match in asked["matches"]] == [[header]] * len(asked["matches"])
        narrower = [{key: value for key, value in match.items() if key != "headers"} for match in asked["matches"]]
        assert narrower == common.get("matches", [{}])


def test_linkerd_knows_the_proxy_that_makes_faults(composed: Composed, kind: str) -> None:
    found = keyed(composed(kind, "linkerd", "service-mesh", "linkerd", "faults"))
    deployment = found["apps", "Deployment", "order-service-faults"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    listened = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = {port["name"]: port["port"] for port in found["", "Service", "order-service-faults"]["spec"]["ports"]}
    assert served == doors([found["apps", "Deployment", "order-service"]])
    assert listened == ports([found["apps", "Deployment", "order-service"]])
    for name in served:
        server = found["policy.linkerd.io", "Server", f"order-service-faults-{name}"]["spec"]
        assert server["podSelector"]["matchLabels"].items() <= labels.items()
        policy = found["policy.linkerd.io", "AuthorizationPolicy", f"order-service-faults-{name}"]["spec"]
        assert policy["targetRef"]["name"] == f"order-service-faults-{name}"
        admitted = [("policy.linkerd.io", ref["kind"], ref["name"]) for ref in policy["requiredAuthenticationRefs"]]
        assert admitted
        assert found.keys() >= set(admitted)
    network = found["networking.k8s.io", "NetworkPolicy", "order-service-faults"]["spec"]
    assert network["podSelector"]["matchLabels"].items() <= labels.items()
    config = next(
        each for key, each in found.items() if key[2].startswith("order-service-faults-") and key[1] == "ConfigMap"
    )
    assert deployment["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == name_of(config)


def test_a_canary_refuses_to_count_faults_as_routes_of_production(render: Render, kind: str, tmp_path: Path) -> None:
    shutil.copytree(render(service_kind=kind, mesh="istio") / "k8s", tmp_path / "k8s")
    compose(tmp_path / "k8s", "istio", "istio", "faults")
    command = ["kubectl", "kustomize", str(tmp_path / "k8s/overlays/canary")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "/spec/http/0/name" in done.stderr


# Limits


def limits(manifests: list[Manifest]) -> list[tuple[str | int, int, int]]:
    """Return each door, by port or name, and its two numbers."""
    found: list[tuple[str | int, int, int]] = []
    for each in pick(manifests, "EnvoyFilter"):
        for patch in each["spec"]["configPatches"]:
            bucket = patch["patch"]["value"]["typed_config"]["token_bucket"]
            port = patch["match"]["listener"]["filterChain"]["destinationPort"]
            found.append((port, bucket["tokens_per_fill"], bucket["max_tokens"]))
    for each in pick(manifests, "HTTPLocalRateLimitPolicy"):
        spec, servers = each["spec"], keyed(manifests)
        server = servers["policy.linkerd.io", "Server", spec["targetRef"]["name"]]
        found.append((server["spec"]["port"], *(spec[key]["requestsPerSecond"] for key in ("total", "identity"))))
    return found


def test_every_door_is_limited_and_nothing_else(composed: Composed, kind: str, mesh: str) -> None:
    manifests = composed(kind, mesh, "service-mesh", mesh, "rate-limit")
    known = doors(manifests)
    assert {door for door, *_ in limits(manifests)} == set(known.values() if mesh == "istio" else known)


def test_two_numbers_in_one_file_are_the_limits_of_every_door(
    render: Render, kind: str, mesh: str, tmp_path: Path
) -> None:
    shutil.copytree(render(service_kind=kind, mesh=mesh) / "k8s", tmp_path / "k8s")
    compose(tmp_path / "k8s", mesh, mesh, "rate-limit")
    file = tmp_path / "k8s/components/rate-limit/limits.yaml"
    names = re.findall(r"^(\w+): \d+$", file.read_text(), re.MULTILINE)
    for name, number in zip(names, (7, 3), strict=True):
        file.write_text(re.sub(rf"^{name}: \d+$", f"{name}: {number}", file.read_text(), flags=re.MULTILINE))
    manifests = build(tmp_path / "k8s/overlays/service-mesh")
    assert {(first, second) for _, first, second in limits(manifests)} == {(7, 3)}
    assert not pick(manifests, "Limits")


def test_istio_limits_the_pods_of_the_service(composed: Composed, kind: str) -> None:
    manifests = composed(kind, "istio", "service-mesh", "istio", "rate-limit")
    selected = one(manifests, "EnvoyFilter")["spec"]["workloadSelector"]["labels"]
    assert selected.items() <= pod_of(manifests)["metadata"]["labels"].items()


def test_linkerd_grants_nobody_more_than_all_together(composed: Composed, kind: str) -> None:
    found = limits(composed(kind, "linkerd", "service-mesh", "linkerd", "rate-limit"))
    assert all(identity <= total for _, total, identity in found)


def test_a_canary_has_the_limits_of_production_for_its_own_pods(composed: Composed, kind: str, mesh: str) -> None:
    manifests = composed(kind, mesh, "canary", mesh, "rate-limit")
    stable, canary = ([each for each in manifests if is_canary(each) == own] for own in (False, True))
    assert limits(canary) == limits(stable) != []
    for each in pick(canary, "EnvoyFilter"):
        selected = each["spec"]["workloadSelector"]["labels"]
        assert selected == one(canary, "Deployment")["spec"]["selector"]["matchLabels"]


# Ambient mode


@pytest.fixture(params=KINDS)
def ambient(request: pytest.FixtureRequest, composed: Composed) -> list[Manifest]:
    """Return the objects of each kind in ambient mode."""
    return composed(request.param, "istio", "service-mesh", "istio-ambient")


def test_in_ambient_mode_the_service_joins_by_labels_of_its_own_and_no_sidecar_is_asked_for(
    ambient: list[Manifest],
) -> None:
    for each in pick(ambient, "Deployment") + pick(ambient, "Job"):
        metadata = each["spec"]["template"]["metadata"]
        assert metadata["labels"]["istio.io/dataplane-mode"] == "ambient"
        assert "sidecar" not in yaml.safe_dump(metadata)
    assert "istio" not in yaml.safe_dump(one(ambient, "Namespace"))


def test_in_ambient_mode_the_service_has_a_waypoint_where_requests_are_to_be_read(ambient: list[Manifest]) -> None:
    labels = one(ambient, "Service")["metadata"]["labels"]
    waypoints = [each for each in pick(ambient, "Gateway") if group_of(each) == "gateway.networking.k8s.io"]
    if not doors(ambient):
        assert not waypoints
        assert "istio.io/use-waypoint" not in labels
        return
    (waypoint,) = waypoints
    assert waypoint["spec"]["gatewayClassName"] == "istio-waypoint"
    assert labels["istio.io/use-waypoint"] == name_of(waypoint)
    (policy,) = [each["spec"] for each in pick(ambient, "AuthorizationPolicy") if "targetRefs" in each["spec"]]
    assert policy["targetRefs"] == [{"group": "", "kind": "Service", "name": name_of(one(ambient, "Service"))}]
    assert policy["rules"] == [rule for rule in ztunnel(ambient)["rules"] if ops(ambient) not in ports_of(rule)]


def ztunnel(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the policy that the node's ztunnel heeds."""
    (found,) = [each["spec"] for each in pick(manifests, "AuthorizationPolicy") if "selector" in each["spec"]]
    policy: dict[str, Any] = found
    return policy


def ops(manifests: list[Manifest]) -> str:
    """Return the operations port as rules write it."""
    return str(ports(manifests)["ops"])


def ports_of(rule: dict[str, Any]) -> list[str]:
    """Return the ports that a rule opens."""
    return [port for to in rule["to"] for port in to["operation"]["ports"]]


def test_a_ztunnel_is_asked_nothing_that_only_a_proxy_of_requests_can_tell(ambient: list[Manifest]) -> None:
    for rule in ztunnel(ambient)["rules"]:
        assert [list(to["operation"]) for to in rule["to"]] == [["ports"]]
        assert all(set(each["source"]) <= {"namespaces", "notPrincipals"} for each in rule["from"])


def test_without_a_certificate_only_the_operations_port_is_reached(ambient: list[Manifest]) -> None:
    bare = [
        rule for rule in ztunnel(ambient)["rules"] if any("notPrincipals" in each["source"] for each in rule["from"])
    ]
    assert [ports_of(rule) for rule in bare] == [[ops(ambient)]]
    peer = one(ambient, "PeerAuthentication")["spec"]
    assert peer["mtls"] == {"mode": "STRICT"}
    assert peer["portLevelMtls"] == {ops(ambient): {"mode": "PERMISSIVE"}}


def test_in_ambient_mode_tunnels_and_probes_pass_the_network_policies(ambient: list[Manifest]) -> None:
    policy = keyed(ambient)["networking.k8s.io", "NetworkPolicy", "order-service-mesh"]["spec"]
    opened = {port["port"]: rule["from"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened.keys() == {15008, "ops"}
    assert {"ipBlock": {"cidr": "169.254.7.127/32"}} in opened["ops"]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [15008]
    assert ({"podSelector": {}} in opened[15008]) == bool(doors(ambient))


def test_a_canary_in_ambient_mode_has_the_waypoint_of_production_and_rules_of_its_own(
    composed: Composed, kind: str
) -> None:
    manifests = composed(kind, "istio", "canary", "istio-ambient")
    canary = [each for each in manifests if is_canary(each)]
    assert not pick(canary, "Gateway")
    assert one(canary, "Service")["metadata"]["labels"]["istio.io/use-waypoint"] == "order-service-waypoint"
    (policy,) = [each["spec"] for each in pick(canary, "AuthorizationPolicy") if "targetRefs" in each["spec"]]
    assert policy["targetRefs"][0]["name"] == name_of(one(canary, "Service"))
