"""Two services of one namespace in the mesh: who reaches them, and who does not."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.cluster.access import Cluster, is_meshed
from tests.e2e.cluster.manifests import namespace, pod
from tests.e2e.cluster.programs import CALL, PLACE
from tests.e2e.cluster.services import Service
from tests.e2e.cluster.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SHOP, ELSEWHERE = "shop", "elsewhere"
ORDER = json.dumps({"customer": "ada", "item": "engine", "quantity": 1})
FRONT = f"http://shop-front.{SHOP}:8000/v1/orders"
# Allowed to everybody by both meshes' rules for probes, and by the NetworkPolicy to the monitoring only.
LIVE = f"http://shop-front.{SHOP}:9000/health/live"
LEDGER = f"shop-ledger.{SHOP}:50051"


@pytest.fixture(scope="module")
def shop(cluster: Cluster, mesh: str, rendered: Callable[..., Service]) -> Iterator[str]:
    """A REST and a gRPC service in the mesh, those who call them from within and without, and their image."""
    front = rendered("shop-front", service_kind="fastapi", namespace=SHOP)
    ledger = rendered("shop-ledger", service_kind="grpc", namespace=SHOP)
    front.push("dev")
    image = ledger.push("dev")
    for service in (front, ledger):
        service.deploy("service-mesh" if mesh != "none" else "development")
    cluster.apply(
        namespace(ELSEWHERE),
        pod("caller", SHOP, image, mesh=mesh),
        pod("stranger", SHOP, image),
        pod("caller", ELSEWHERE, image, mesh=mesh),
        pod("stranger", ELSEWHERE, image),
    )
    for service in (front, ledger):
        # Orders are in the memory of one pod.
        one = ("--type=merge", "--patch", '{"spec": {"maxReplicas": 1}}')
        cluster.kubectl("patch", "horizontalpodautoscaler", service.name, "--namespace", SHOP, *one)
        cluster.rolled_out(SHOP, service.name)
    for where in (SHOP, ELSEWHERE):
        cluster.kubectl(
            "wait", "--for=condition=Ready", "pod/caller", "pod/stranger", "--namespace", where, "--timeout=180s"
        )
    yield image
    cluster.kubectl("delete", "namespace", SHOP, ELSEWHERE, "--ignore-not-found")


def call(cluster: Cluster, where: str, who: str, *arguments: str, program: str = CALL) -> str:
    """Return how a call from a pod ends."""
    return cluster.python(where, who, program, *arguments).strip()


def test_pods_have_the_proxy_of_the_mesh(cluster: Cluster, mesh: str, shop: str) -> None:
    pods: list[Any] = [*cluster.pods(SHOP, "shop-front"), *cluster.pods(SHOP, "shop-ledger")]
    assert len(pods) == 2
    assert mesh == "none" or all(is_meshed(each, mesh) for each in pods)


def test_a_neighbour_calls_over_http(cluster: Cluster, shop: str) -> None:
    placed = eventually("an order is placed", lambda: placed_by(cluster))
    read = call(cluster, SHOP, "caller", f"{FRONT}/{placed['id']}")
    assert read.startswith("200 ")
    assert json.loads(read.partition(" ")[2]) == placed


def placed_by(cluster: Cluster) -> dict[str, Any]:
    """Place an order from the neighbour; return it."""
    answer = call(cluster, SHOP, "caller", FRONT, ORDER)
    assert answer.startswith("201 "), answer
    order: dict[str, Any] = json.loads(answer.partition(" ")[2])
    return order


def test_a_neighbour_calls_over_grpc(cluster: Cluster, shop: str) -> None:
    def placed() -> str:
        answer = call(cluster, SHOP, "caller", "shop_ledger", LEDGER, program=PLACE)
        assert answer.startswith("placed "), answer
        return answer

    assert eventually("an order is placed", placed)


def test_who_is_not_in_the_mesh_is_refused_by_it(cluster: Cluster, mesh: str, shop: str) -> None:
    if mesh == "none":
        pytest.skip("there is no mesh to refuse anybody")
    # The NetworkPolicy lets neighbours in: an answer, but none of the service, is the mesh's.
    assert call(cluster, SHOP, "caller", FRONT).startswith("200 ")
    assert call(cluster, SHOP, "stranger", FRONT).startswith(("refused", "403"))
    answer = call(cluster, SHOP, "stranger", "shop_ledger", LEDGER, program=PLACE)
    assert answer.startswith("refused: "), answer


@pytest.mark.parametrize("who", ["caller", "stranger"])
def test_other_namespaces_do_not_come_in(cluster: Cluster, shop: str, who: str) -> None:
    assert not call(cluster, ELSEWHERE, who, FRONT).startswith("2")
    answer = call(cluster, ELSEWHERE, who, "shop_ledger", LEDGER, program=PLACE)
    assert answer.startswith("refused: "), answer


def test_packets_of_other_namespaces_are_dropped_by_the_network_policy(cluster: Cluster, shop: str) -> None:
    # Nobody answers, not even to refuse: so it is no proxy.
    assert call(cluster, ELSEWHERE, "stranger", LIVE) == "timed out"
    pods = cluster.pods(SHOP, "shop-front")
    assert cluster.python(SHOP, pods[0].metadata.name, CALL, "http://127.0.0.1:9000/health/live").startswith("200 ")


def test_a_service_that_does_not_answer_is_told_of_until_it_is_gone(cluster: Cluster, shop: str) -> None:
    silent = "silent-service"
    cluster.apply(pod(silent, SHOP, shop, scraped=True))
    with cluster.forwarded("monitoring", "alertmanager", 9093) as alertmanager:

        def firing() -> list[str]:
            found = call_here(f"{alertmanager}/api/v2/alerts?filter=alertname=ServiceDown")
            return [alert["labels"]["job"] for alert in json.loads(found) if alert["labels"].get("job") == silent]

        assert eventually("the alert fires", firing, seconds=420) == [silent]
        cluster.kubectl("delete", "pod", silent, "--namespace", SHOP)
        eventually("the alert is resolved", lambda: not firing(), seconds=600)


def call_here(url: str) -> str:
    """Return what a URL answers to this machine."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text
