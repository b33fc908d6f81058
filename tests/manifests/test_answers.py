"""Each answer lands where it belongs, whatever it is, and no default shows through."""

from __future__ import annotations

import pytest
import yaml

from extensions.kinds import DOORS
from extensions.kinds import KINDS as FEATURES
from tests.conftest import HOSTILE, KINDS, MESHES, Render
from tests.manifests.tools import (
    Manifest,
    build,
    environment,
    has_canary,
    one,
    overlays,
    pick,
    ports,
    release,
    service_container,
)

ANSWERS = {
    "service_name": "odd-one",
    "service_description": HOSTILE,
    "author_name": 'Zoë "Z" O\'Neil: #1',
    "author_email": "zoe+k8s@team.dev",
    "http_port": 8123,
    "grpc_port": 50123,
    "ops_port": 9123,
    "namespace": "2026",
    "domain": "odd.test",
    "image_registry": "localhost:5001/a/b",
}
DEFAULTS = ("8000", "9000", "50051", "example.com", "ghcr.io", "order-service", "shop")


@pytest.fixture(scope="module", params=[(kind, mesh) for kind in KINDS for mesh in MESHES], ids="-".join)
def odd(request: pytest.FixtureRequest, render: Render) -> dict[str, list[Manifest]]:
    """Return all releases in all overlays of a service with no default left."""
    kind, mesh = request.param
    folder = render(service_kind=kind, mesh=mesh, **ANSWERS) / "k8s" / "overlays"
    found = {overlay: build(folder / overlay) for overlay in overlays(mesh)}
    if has_canary(kind, mesh):
        both = build(folder / "canary")
        return found | {"canary stable": release(both, "stable"), "canary canary": release(both, "canary")}
    return found


def test_every_answer_lands_in_every_overlay(odd: dict[str, list[Manifest]]) -> None:
    for overlay, manifests in odd.items():
        name = "odd-one-canary" if overlay == "canary canary" else "odd-one"
        deployment = one(manifests, "Deployment")["metadata"]
        assert one(manifests, "Namespace")["metadata"]["name"] == deployment["namespace"] == "2026"
        assert {deployment["name"], one(manifests, "Service")["metadata"]["name"]} == {name}
        assert deployment["annotations"]["kubernetes.io/description"] == HOSTILE
        assert deployment["annotations"]["a8r.io/owner"] == 'Zoë "Z" O\'Neil: #1 <zoe+k8s@team.dev>'
        assert service_container(manifests)["image"].rpartition(":")[0] == "localhost:5001/a/b/odd-one"
        assert ports(manifests)["ops"] == 9123
        assert ports(manifests).get("http", 8123) == 8123
        assert ports(manifests).get("grpc", 50123) == 50123


def test_the_domain_lands_in_every_door(odd: dict[str, list[Manifest]]) -> None:
    objects = [each for manifests in odd.values() for each in manifests]
    doors = [rule["host"] for each in pick(objects, "Ingress") for rule in each["spec"]["rules"]]
    doors += [host for each in pick(objects, "Ingress") for tls in each["spec"]["tls"] for host in tls["hosts"]]
    doors += [
        host for each in pick(objects, "Gateway") for server in each["spec"]["servers"] for host in server["hosts"]
    ]
    doors += [each["spec"]["hosts"][0] for each in pick(objects, "VirtualService")]
    gateway = "grpc" in ports(odd["development"]) and bool(pick(objects, "Gateway"))
    assert set(doors) == ({"odd-one.odd.test"} if "http" in ports(odd["development"]) or gateway else set())


def test_an_ingress_has_no_word_for_grpc(odd: dict[str, list[Manifest]]) -> None:
    objects = [each for manifests in odd.values() for each in manifests]
    paths = [
        path for each in pick(objects, "Ingress") for rule in each["spec"]["rules"] for path in rule["http"]["paths"]
    ]
    assert {path["backend"]["service"]["port"]["name"] for path in paths} <= {"http"}


def test_no_default_shows_through(odd: dict[str, list[Manifest]]) -> None:
    text = yaml.safe_dump(list(odd.values()))
    assert not [default for default in DEFAULTS if default in text]


def test_a_service_without_http_says_nothing_of_it(render: Render) -> None:
    manifests = build(render(service_kind="minimal", mesh="istio") / "k8s" / "overlays" / "production")
    assert not [name for name in environment(manifests) if name.startswith("HTTP_")]
    assert not {each["kind"] for each in manifests} & {"Ingress", "Gateway", "VirtualService", "DestinationRule"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", MESHES)
def test_no_other_mesh_is_mentioned(render: Render, kind: str, mesh: str) -> None:
    folder = render(service_kind=kind, mesh=mesh) / "k8s"
    others = [other for other in MESHES if other not in {"none", mesh}]
    paths = list(folder.rglob("*"))
    names = [str(path.relative_to(folder)) for path in paths]
    texts = names + [path.read_text("utf-8").lower() for path in paths if path.is_file()]
    assert not [text for text in texts if any(other in text for other in others)]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_mesh_no_folder_is_left_for_one(render: Render, kind: str) -> None:
    folder = render(service_kind=kind, mesh="none") / "k8s"
    doors = FEATURES[kind] & DOORS
    assert sorted(entry.name for entry in folder.iterdir()) == ["base", *(["components"] if doors else []), "overlays"]
    assert [entry.name for entry in folder.glob("components/*")] == (["gateway"] if doors else [])
