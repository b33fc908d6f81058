"""A service that plugs into the shared Gateway is found there, by names that the Gateway has a certificate for."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.conftest import ANSWERS, KINDS, MESHES, ROOT, Render
from tests.manifests.tools import Manifest, build, environment, group_of, one, pick, ports, problems

WITH_DOORS = tuple(kind for kind in KINDS if kind != "minimal")
CASES = [(kind, mesh) for kind in WITH_DOORS for mesh in MESHES]
Plugged = Callable[[str, str], list[Manifest]]


@pytest.fixture(scope="session")
def plugged(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Plugged:
    """Return a function that builds the production overlay of a kind with a mesh, the component added."""

    @functools.cache
    def plugged(kind: str, mesh: str) -> list[Manifest]:
        folder = tmp_path_factory.mktemp("plugged") / "k8s"
        shutil.copytree(render(service_kind=kind, mesh=mesh) / "k8s", folder)
        file = folder / "overlays" / "production" / "kustomization.yaml"
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        found["components"] = [*found.get("components", []), "../../components/gateway"]
        file.write_text(yaml.safe_dump(found), encoding="utf-8")
        return build(file.parent)

    return plugged


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, plugged: Plugged) -> tuple[str, list[Manifest]]:
    """Return the mesh and the objects of each kind that is called, with each mesh."""
    kind, mesh = request.param
    return mesh, plugged(kind, mesh)


def routes(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Return the specs of the routes that are attached to a Gateway."""
    found = [each["spec"] for each in pick(manifests, "HTTPRoute") + pick(manifests, "GRPCRoute")]
    return [spec for spec in found if spec["parentRefs"][0].get("kind", "Gateway") == "Gateway"]


def shared(mesh: str) -> Manifest:
    """Return the Gateway that the cluster has with a mesh."""
    return one(build(ROOT / "k8s" / "ingress" / {"none": "envoy"}.get(mesh, mesh)), "Gateway")


def test_every_object_satisfies_its_strict_schema(case: tuple[str, list[Manifest]]) -> None:
    found = {f"{each['kind']} {each['metadata']['name']}": problems(each) for each in case[1]}
    assert not {name: wrong for name, wrong in found.items() if wrong}


def test_routes_are_attached_to_the_listener_that_lets_them(case: tuple[str, list[Manifest]]) -> None:
    mesh, manifests = case
    gateway = shared(mesh)
    open_to_all = [
        each for each in gateway["spec"]["listeners"] if each["allowedRoutes"]["namespaces"]["from"] == "All"
    ]
    names = {key: gateway["metadata"][key] for key in ("name", "namespace")}
    parents = [{**names, "sectionName": each["name"]} for each in open_to_all]
    assert routes(manifests)
    assert all(spec["parentRefs"] == parents for spec in routes(manifests))


def test_every_door_has_a_name_of_its_own_one_label_below_the_domain(case: tuple[str, list[Manifest]]) -> None:
    _, manifests = case
    hosts = [host for spec in routes(manifests) for host in spec["hostnames"]]
    assert len(hosts) == len(set(hosts)) == len(ports(manifests)) - 1
    assert f"{ANSWERS['service_name']}.{ANSWERS['domain']}" in hosts
    assert {host.partition(".")[2] for host in hosts} == {ANSWERS["domain"]}


def test_routes_lead_to_the_door_of_their_kind(case: tuple[str, list[Manifest]]) -> None:
    _, manifests = case
    name = one(manifests, "Service")["metadata"]["name"]
    attached = pick(manifests, "HTTPRoute") + pick(manifests, "GRPCRoute")
    targets = {
        each["kind"].removesuffix("Route").lower(): [rule["backendRefs"] for rule in each["spec"]["rules"]]
        for each in attached
        if each["spec"] in routes(manifests)
    }
    doors = {door: port for door, port in ports(manifests).items() if door != "ops"}
    assert targets == {door: [[{"name": name, "port": port}]] for door, port in doors.items()}


def test_the_gateway_waits_longer_than_the_service_and_ends_no_stream(case: tuple[str, list[Manifest]]) -> None:
    _, manifests = case
    for route in pick(manifests, "HTTPRoute"):
        if route["spec"] in routes(manifests):
            waits = float(route["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s"))
            assert waits > float(environment(manifests)["HTTP_REQUEST_TIMEOUT"])
    assert not [rule for each in pick(manifests, "GRPCRoute") for rule in each["spec"]["rules"] if "timeouts" in rule]


@pytest.mark.parametrize("kind", WITH_DOORS)
def test_istio_has_one_door_for_a_name(plugged: Plugged, kind: str) -> None:
    manifests = plugged(kind, "istio")
    assert not [each for each in pick(manifests, "Gateway") if group_of(each) == "networking.istio.io"]
    inside = one(manifests, "VirtualService")["spec"]
    assert (inside["hosts"], inside["gateways"]) == ([ANSWERS["service_name"]], ["mesh"])


@pytest.mark.parametrize(("kind", "mesh"), [("fastapi", "none"), ("hybrid", "istio"), ("grpc", "linkerd")])
def test_nothing_else_is_changed(plugged: Plugged, built: Callable[..., list[Manifest]], kind: str, mesh: str) -> None:
    before, after = built(kind, mesh, "production"), plugged(kind, mesh)
    kept = [each for each in before if each["kind"] not in {"Gateway", "VirtualService"}]
    assert not [each["kind"] for each in kept if each not in after]


@pytest.mark.parametrize("mesh", MESHES)
def test_a_service_without_a_door_has_no_such_component(render: Render, mesh: str) -> None:
    folder = render(service_kind="minimal", mesh=mesh) / "k8s" / "components"
    assert not (folder / "gateway").exists()
    assert folder.exists() == (mesh != "none")
