"""What Istio's own code makes of the rendered manifests: nothing is refused, and proxies are told what was meant."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest

from tests.conftest import KINDS
from tests.manifests.crds import pinned
from tests.manifests.tools import one

from .conftest import Manifests, Overlays, Stubbed
from .envoy import admin
from .istiod import SOURCE, Json, ask
from .objects import platform, seen_by_istiod
from .proxy import LEFT_OUT, every, filters
from .stack import Mesh

Damage = Callable[[Json], None]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("istio")]


def test_the_code_is_that_of_the_istio_which_the_cluster_gets() -> None:
    api = re.search(r"istio\.io/api v(\d+\.\d+)\.", (SOURCE / "go.mod").read_text())
    assert api is not None
    assert pinned("ISTIO_VERSION").startswith(f"{api[1]}.")


@pytest.mark.parametrize("kind", KINDS)
def test_istio_accepts_every_object_of_every_overlay_without_a_warning(
    overlays: Overlays, manifests: Manifests, kind: str
) -> None:
    for overlay in overlays(kind).iterdir():
        answer = ask(seen_by_istiod([*manifests(kind, overlay.name), *platform()]))
        assert (answer.refused, answer.warned) == ({}, {})


def without_route(entry: Json) -> None:
    """Make it a fault of its own."""
    del entry["route"]
    entry["fault"] = {"abort": {"httpStatus": 503, "percentage": {"value": 100}}}


def without_weight(entry: Json) -> None:
    """Split it over destinations of which none gets anything."""
    entry["route"] = [each | {"weight": 0} for each in entry["route"] * 2]


@pytest.mark.parametrize("damage", [without_route, without_weight])
def test_istio_refuses_what_is_wrong(manifests: Manifests, damage: Damage) -> None:
    objects = copy.deepcopy(manifests("fastapi"))
    damage(one(objects, "VirtualService")["spec"]["http"][0])
    assert list(ask(seen_by_istiod(objects)).refused) == ["VirtualService/shop/order-service"]


def test_envoy_runs_all_filters_that_istio_asks_for_but_those_of_its_own(stubbed_pods: Stubbed) -> None:
    mesh, _ = stubbed_pods
    asked = set().union(*(filters(proxy) for proxy in mesh.answer.proxies.values()))
    running = set().union(*(filters(admin(each, "/config_dump")) for each in mesh.proxies))
    assert asked - running == LEFT_OUT


def cluster(mesh: Mesh, port: int) -> Json:
    """Return what the caller is told of a port of the service."""
    name = f"outbound|{port}||order-service.shop.svc.cluster.local"
    clusters: list[Json] = mesh.answer.proxies["shop/caller"]["clusters"]
    return next(each for each in clusters if each["name"] == name)


def test_a_caller_limits_what_waits_for_a_pod(stubbed_pods: Stubbed) -> None:
    mesh, _ = stubbed_pods
    limits = {"maxConnections": 256, "maxPendingRequests": 256, "maxRequests": 1024, "maxRetries": 16}
    for port in mesh.ports.values():
        assert cluster(mesh, port)["circuitBreakers"] == {"thresholds": [limits]}
        assert cluster(mesh, port)["connectTimeout"] == "2s"


def test_a_failing_pod_gets_nothing_for_30_seconds_and_half_of_the_pods_always_something(stubbed_pods: Stubbed) -> None:
    mesh, _ = stubbed_pods
    for port in mesh.ports.values():
        found = cluster(mesh, port)["outlierDetection"]
        assert (found["consecutive5xx"], found["enforcingConsecutive5xx"]) == (5, 100)
        assert (found["interval"], found["baseEjectionTime"], found["maxEjectionPercent"]) == ("10s", "30s", 50)


def test_every_route_to_the_service_but_those_of_streams_ends_after_20_seconds(stubbed_pods: Stubbed) -> None:
    mesh, _ = stubbed_pods
    for proxy in ("shop/caller", "istio-ingress/gateway"):
        found = every(mesh.answer.proxies[proxy]["routes"])
        doors = tuple(f"outbound|{mesh.ports[door]}||order-service" for door in mesh.doors)
        routes = [each for each in found if each.get("route", {}).get("cluster", "").startswith(doors)]
        waits = {each["name"]: each["route"]["timeout"] for each in routes}
        assert waits
        assert waits == {name: "0s" if name == "streams" else "20s" for name in waits}
