"""What a mesh is told fits the service: who may come in, by which port, where requests lead, how long they may take."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conftest import KINDS, Render
from tests.manifests.tools import (
    Built,
    Manifest,
    environment,
    group_of,
    name_of,
    one,
    pick,
    pod_of,
    ports,
    service_container,
)


@pytest.fixture(params=KINDS)
def istio(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Return the objects of each kind with Istio."""
    return built(request.param, "istio", "service-mesh")


@pytest.fixture(params=KINDS)
def linkerd(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Return the objects of each kind with Linkerd."""
    return built(request.param, "linkerd", "service-mesh")


def routes_of(manifests: list[Manifest]) -> list[Manifest]:
    """Return the routes of the Gateway API."""
    return pick(manifests, "HTTPRoute") + pick(manifests, "GRPCRoute")


def attached(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return the routes whose parent is a `kind`."""
    return [each for each in routes_of(manifests) if each["spec"]["parentRefs"][0]["kind"] == kind]


def doors(manifests: list[Manifest]) -> dict[str, int]:
    """Return the ports that clients call, by name."""
    return {name: port for name, port in ports(manifests).items() if name != "ops"}


def references(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Return what Linkerd's policies and routes refer to."""
    policies = [each["spec"] for each in pick(manifests, "AuthorizationPolicy")]
    found = [spec["targetRef"] for spec in policies]
    found += [ref for spec in policies for ref in spec["requiredAuthenticationRefs"]]
    return found + [ref for route in routes_of(manifests) for ref in route["spec"]["parentRefs"]]


def entries(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    """Return the entries of the VirtualService by name."""
    return {entry["name"]: entry for each in pick(manifests, "VirtualService") for entry in each["spec"]["http"]}


def test_istio_routes_lead_to_the_doors_of_the_service(istio: list[Manifest]) -> None:
    name = name_of(one(istio, "Service"))
    targets = [to["destination"] for entry in entries(istio).values() for to in entry["route"]]
    assert {target["host"] for target in targets} <= {name}
    assert {target["port"]["number"] for target in targets} == set(doors(istio).values())
    assert all(each["spec"]["host"] == name for each in pick(istio, "DestinationRule"))


def test_istio_leads_every_call_to_the_grpc_port_inside_and_at_the_gateway(istio: list[Manifest]) -> None:
    if "grpc" not in doors(istio):
        assert "calls" not in entries(istio)
        return
    port = doors(istio)["grpc"]
    outside = {"gateways": ["order-service"], "uri": {"prefix": "/order_service.v1."}}
    assert entries(istio)["calls"]["match"] == [{"port": port}, outside]
    for name in ("safe-calls", "streams", "calls"):
        assert entries(istio)[name]["route"][0]["destination"]["port"]["number"] == port
    # The first entry that matches wins, and the last takes everything.
    assert list(entries(istio))[:3] == ["safe-calls", "streams", "calls"]


def test_istio_sends_only_safe_calls_again(istio: list[Manifest]) -> None:
    again = {name: set(entry["retries"]["retryOn"].split(",")) for name, entry in entries(istio).items()}
    never_arrived = {"connect-failure", "refused-stream"}
    assert {name for name, conditions in again.items() if conditions != never_arrived} <= {"reads", "safe-calls"}
    assert all(conditions >= never_arrived for conditions in again.values())


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


def test_linkerd_routes_lead_to_the_door_of_their_kind(linkerd: list[Manifest]) -> None:
    routes = attached(linkerd, "Service")
    name = name_of(one(linkerd, "Service"))
    assert {route["kind"].removesuffix("Route").lower() for route in routes} == set(doors(linkerd))
    for route in routes:
        spec, door = route["spec"], route["kind"].removesuffix("Route").lower()
        target = {"name": name, "port": ports(linkerd)[door]}
        assert spec["parentRefs"] == [{"group": "core", "kind": "Service", **target}]
        assert [rule["backendRefs"] for rule in spec["rules"]] == [[target]]


def test_linkerd_expects_on_each_port_what_it_speaks(linkerd: list[Manifest]) -> None:
    spoken = {each["spec"]["port"]: each["spec"]["proxyProtocol"] for each in pick(linkerd, "Server")}
    assert spoken == {name: "gRPC" if name == "grpc" else "HTTP/1" for name in ports(linkerd)}


def test_linkerd_sends_only_safe_calls_again_and_routes_the_rest_too(built: Built) -> None:
    routes = {name_of(each): each for each in attached(built("grpc", "linkerd", "service-mesh"), "Service")}
    safe, streams, calls = (routes[f"order-service-{name}"] for name in ("safe-calls", "streams", "calls"))
    assert [match["method"]["method"] for match in safe["spec"]["rules"][0]["matches"]] == ["GetOrder"]
    assert "retry.linkerd.io/grpc" in safe["metadata"]["annotations"]
    assert list(streams["metadata"]["annotations"]) == ["timeout.linkerd.io/idle"]
    assert "matches" not in calls["spec"]["rules"][0]
    assert "annotations" not in calls["metadata"]


def test_linkerd_sends_only_reads_again_and_routes_the_rest_too(built: Built) -> None:
    reads, writes = attached(built("fastapi", "linkerd", "service-mesh"), "Service")
    assert [match["method"] for match in reads["spec"]["rules"][0]["matches"]] == ["GET", "HEAD"]
    assert "retry.linkerd.io/http" in reads["metadata"]["annotations"]
    assert "matches" not in writes["spec"]["rules"][0]
    assert "annotations" not in writes["metadata"]


@pytest.mark.parametrize("kind", ["fastapi", "grpc", "hybrid", "auth"])
@pytest.mark.parametrize("mesh", ["istio", "linkerd"])
def test_the_mesh_waits_longer_than_the_service(built: Built, kind: str, mesh: str) -> None:
    manifests = built(kind, mesh, "service-mesh")
    waits = [entry["timeout"] for entry in entries(manifests).values() if "timeout" in entry]
    annotated = [one(manifests, "Service"), *attached(manifests, "Service")]
    annotations = [each["metadata"].get("annotations", {}) for each in annotated]
    waits += [each["timeout.linkerd.io/request"] for each in annotations if "timeout.linkerd.io/request" in each]
    found = environment(manifests)
    service = max(float(found.get(f"{door}_REQUEST_TIMEOUT", 0)) for door in ("HTTP", "GRPC"))
    assert waits
    assert min(int(each.removesuffix("s")) for each in waits) > service


@pytest.mark.parametrize("kind", ["grpc", "hybrid", "auth"])
def test_no_mesh_ends_a_stream_before_the_service_does(built: Built, kind: str) -> None:
    assert "timeout" not in entries(built(kind, "istio", "service-mesh"))["streams"]
    (streams,) = [
        each for each in pick(built(kind, "linkerd", "service-mesh"), "GRPCRoute") if "streams" in name_of(each)
    ]
    assert "timeout.linkerd.io/request" not in streams["metadata"]["annotations"]


@pytest.mark.parametrize("kind", ["grpc", "hybrid", "auth"])
@pytest.mark.parametrize("mesh", ["istio", "linkerd"])
def test_every_call_of_the_proto_is_routed_as_what_it_is(built: Built, render: Render, kind: str, mesh: str) -> None:
    [path] = (render(service_kind=kind, mesh=mesh) / "proto/order_service/v1").glob("*.proto")
    proto = path.read_text()
    service = re.findall(r"^service (\w+)", proto, re.MULTILINE)[0]
    calls = re.findall(r"rpc (\w+)\((stream )?\w+\) returns \((stream )?", proto)
    streams = {name for name, *streamed in calls if any(streamed)}
    manifests = built(kind, mesh, "service-mesh")
    if mesh == "istio":
        pattern = entries(manifests)["streams"]["match"][0]["uri"]["regex"]
        found = {name for name, *_ in calls if re.fullmatch(pattern, f"/order_service.v1.{service}/{name}")}
    else:
        routes = {name_of(each): each["spec"]["rules"][0] for each in pick(manifests, "GRPCRoute")}
        found = {match["method"]["method"] for match in routes["order-service-streams"]["matches"]}
    assert found == streams


@pytest.mark.parametrize(
    ("mesh", "where", "name"),
    [("istio", "labels", "sidecar.istio.io/inject"), ("linkerd", "annotations", "linkerd.io/inject")],
)
def test_pods_join_the_mesh_everywhere_but_in_dev(built: Built, mesh: str, where: str, name: str) -> None:
    names = ("development", "staging", "production", "service-mesh")
    joined = {each for each in names if name in pod_of(built("minimal", mesh, each))["metadata"][where]}
    assert joined == {"staging", "production", "service-mesh"}
