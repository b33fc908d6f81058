"""What a mesh is told fits the service: who may come in, by which port, where requests lead, how long they may take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import KINDS
from tests.manifests.tools import Built, Manifest, environment, group_of, one, pick, pod_of, ports, service_container


@pytest.fixture(params=KINDS)
def istio(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Return the objects of each kind with Istio."""
    return built(request.param, "istio", "service-mesh")


@pytest.fixture(params=KINDS)
def linkerd(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Return the objects of each kind with Linkerd."""
    return built(request.param, "linkerd", "service-mesh")


def name_of(manifest: Manifest) -> str:
    """Return an object's name."""
    return str(manifest["metadata"]["name"])


def attached(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the HTTPRoutes whose parent is a `kind`."""
    return [each for each in pick(manifests, "HTTPRoute") if each["spec"]["parentRefs"][0]["kind"] == kind]


def references(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Return what Linkerd's policies and routes refer to."""
    policies = [each["spec"] for each in pick(manifests, "AuthorizationPolicy")]
    found = [spec["targetRef"] for spec in policies]
    found += [ref for spec in policies for ref in spec["requiredAuthenticationRefs"]]
    return found + [ref for route in pick(manifests, "HTTPRoute") for ref in route["spec"]["parentRefs"]]


def test_istio_routes_lead_to_the_http_port_of_the_service(istio: list[Manifest]) -> None:
    name = name_of(one(istio, "Service"))
    specs = [each["spec"] for each in pick(istio, "VirtualService")]
    targets = [to["destination"] for spec in specs for entry in spec["http"] for to in entry["route"]]
    assert bool(targets) == ("http" in ports(istio))
    assert all(target == {"host": name, "port": {"number": ports(istio)["http"]}} for target in targets)
    assert all(each["spec"]["host"] == name for each in pick(istio, "DestinationRule"))


def test_istio_routes_answer_inside_and_at_the_gateway(istio: list[Manifest]) -> None:
    gateways = {name_of(each): each["spec"]["servers"] for each in pick(istio, "Gateway")}
    outside = {host for servers in gateways.values() for server in servers for host in server["hosts"]}
    for route in pick(istio, "VirtualService"):
        assert route["spec"]["gateways"] == [*gateways, "mesh"]
        assert set(route["spec"]["hosts"]) == {name_of(one(istio, "Service")), *outside}


def test_istio_admits_nobody_without_a_certificate(istio: list[Manifest]) -> None:
    pods = {"matchLabels": one(istio, "Service")["spec"]["selector"]}
    assert one(istio, "PeerAuthentication")["spec"] == {"selector": pods, "mtls": {"mode": "STRICT"}}


def test_each_istio_rule_names_both_an_origin_and_a_port(istio: list[Manifest]) -> None:
    rules = one(istio, "AuthorizationPolicy")["spec"]["rules"]
    assert all(each["source"]["namespaces"] for rule in rules for each in rule["from"])
    admitted = [port for rule in rules for each in rule["to"] for port in each["operation"]["ports"]]
    assert admitted == [str(port) for port in ports(istio).values()]


def test_istio_records_the_same_share_of_traces_as_the_service(built: Built) -> None:
    manifests = built("fastapi", "istio", "production")
    (tracing,) = one(manifests, "Telemetry")["spec"]["tracing"]
    share = float(environment(manifests)["OTEL_TRACES_SAMPLER_ARG"])
    assert tracing["randomSamplingPercentage"] == pytest.approx(100 * share)


def test_linkerd_guards_every_port_of_the_container(linkerd: list[Manifest]) -> None:
    assert {each["spec"]["port"] for each in pick(linkerd, "Server")} == ports(linkerd).keys()


def test_linkerd_policies_refer_to_what_exists(linkerd: list[Manifest]) -> None:
    known = {(group_of(each) or "core", each["kind"], name_of(each)) for each in linkerd}
    assert not [ref for ref in references(linkerd) if (ref["group"], ref["kind"], ref["name"]) not in known]


def test_linkerd_authorizes_each_route_of_a_server_and_each_server_without_routes(linkerd: list[Manifest]) -> None:
    routes = attached(linkerd, "Server")
    with_routes = {route["spec"]["parentRefs"][0]["name"] for route in routes}
    needed = {name_of(each) for each in pick(linkerd, "Server")} - with_routes | {name_of(route) for route in routes}
    targets = [each["spec"]["targetRef"]["name"] for each in pick(linkerd, "AuthorizationPolicy")]
    assert sorted(targets) == sorted(needed)


def test_linkerd_lets_probes_and_scrapes_in_without_an_identity(linkerd: list[Manifest]) -> None:
    policies = [each["spec"] for each in pick(linkerd, "AuthorizationPolicy")]
    kinds = {spec["targetRef"]["name"]: spec["requiredAuthenticationRefs"][0]["kind"] for spec in policies}
    (open_route,) = [each for each in attached(linkerd, "Server") if kinds[name_of(each)] == "NetworkAuthentication"]
    open_paths = {match["path"]["value"] for rule in open_route["spec"]["rules"] for match in rule["matches"]}
    container = service_container(linkerd)
    probed = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")]
    scraped = pod_of(linkerd)["metadata"]["annotations"]["prometheus.io/path"]
    assert open_paths == {*(path.rpartition("/")[0] for path in probed), scraped}


def test_linkerd_routes_lead_to_the_http_port_of_the_service(linkerd: list[Manifest]) -> None:
    specs = [route["spec"] for route in attached(linkerd, "Service")]
    name = name_of(one(linkerd, "Service"))
    assert bool(specs) == ("http" in ports(linkerd))
    for spec in specs:
        target = {"name": name, "port": ports(linkerd)["http"]}
        assert spec["parentRefs"] == [{"group": "core", "kind": "Service", **target}]
        assert [rule["backendRefs"] for rule in spec["rules"]] == [[target]]


def test_linkerd_sends_only_reads_again_and_routes_the_rest_too(built: Built) -> None:
    reads, writes = attached(built("fastapi", "linkerd", "service-mesh"), "Service")
    assert [match["method"] for match in reads["spec"]["rules"][0]["matches"]] == ["GET", "HEAD"]
    assert "retry.linkerd.io/http" in reads["metadata"]["annotations"]
    assert "matches" not in writes["spec"]["rules"][0]
    assert "annotations" not in writes["metadata"]


@pytest.mark.parametrize("mesh", ["istio", "linkerd"])
def test_the_mesh_waits_longer_than_the_service(built: Built, mesh: str) -> None:
    manifests = built("fastapi", mesh, "service-mesh")
    routes = [entry["timeout"] for each in pick(manifests, "VirtualService") for entry in each["spec"]["http"]]
    annotations = one(manifests, "Service")["metadata"].get("annotations", {})
    waits = routes or [annotations["timeout.linkerd.io/request"]]
    assert min(int(each.removesuffix("s")) for each in waits) > float(environment(manifests)["HTTP_REQUEST_TIMEOUT"])


@pytest.mark.parametrize(
    ("mesh", "where", "name"),
    [("istio", "labels", "sidecar.istio.io/inject"), ("linkerd", "annotations", "linkerd.io/inject")],
)
def test_pods_join_the_mesh_everywhere_but_in_dev(built: Built, mesh: str, where: str, name: str) -> None:
    names = ("development", "staging", "production", "service-mesh")
    joined = {each for each in names if name in pod_of(built("minimal", mesh, each))["metadata"][where]}
    assert joined == {"staging", "production", "service-mesh"}
