"""docs/laptop-to-canary.md, typed from tools to cleaning up, and what must be so after each of its sections."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.cluster.access import NAME, Cluster, is_meshed
from tests.e2e.cluster.load import Load
from tests.e2e.cluster.programs import CALL
from tests.e2e.cluster.services import Service
from tests.e2e.cluster.shares import Counts, answered, by_release, check_share, growth
from tests.e2e.cluster.waiting import eventually
from tests.e2e.laptop import Laptop, sections, typing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

SERVICE = NAMESPACE = "order-service"
CANARY = f"{SERVICE}-canary"
HOST = "https://order-service.example.com:8443"
OPS = "http://127.0.0.1:9000"
# Until every proxy has heard of new weights.
HEARD = 15.0
ENOUGH = 500


@pytest.fixture(scope="module")
def laptop(
    cluster: Cluster,
    mesh: str,
    checkout: Path,
    wheel: Path,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Laptop]:
    """The reader's terminal."""
    assert cluster.context == "kind-marty", "the page is about the cluster of k8s/setup-cluster.sh without a --name"
    assert mesh in {"istio", "linkerd"}, "the page is about a cluster with a mesh"
    # Tools are installed for this reader only.
    home = tmp_path_factory.mktemp("home")
    opened = Laptop(home, environment | {"HOME": str(home)}, typing(mesh, checkout, f"vendor/{wheel.name}"), "")
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def type_section(laptop: Laptop, mesh: str) -> Callable[[str], None]:
    """Return a function that types all of a section."""
    page = sections(mesh)

    def typed(heading: str) -> None:
        for block in page[heading]:
            laptop.type(block)

    return typed


@pytest.fixture(scope="module")
def service(laptop: Laptop, environment: dict[str, str]) -> Service:
    """What the page has rendered."""
    return Service(laptop.folder / SERVICE, environment)


@pytest.fixture(scope="module")
def load(laptop: Laptop, service: Service) -> Iterator[Load]:
    """Load at the door, from the first time that a test wants it until one stops it."""
    trusting = {"REQUESTS_CA_BUNDLE": str(laptop.folder / "marty" / "ca.crt")}
    started = Load(service.folder, HOST, 10, {**service.environment, **trusting})
    yield started
    started.close()


def versions(cluster: Cluster, release: str) -> set[str]:
    """Return the versions that a release's pods say they are."""
    pods = cluster.pods(NAMESPACE, release)
    told = [cluster.python(NAMESPACE, pod.metadata.name, CALL, f"{OPS}/info") for pod in pods]
    return {json.loads(each.partition(" ")[2])["version"] for each in told}


def counts(cluster: Cluster) -> tuple[Counts, dict[str, str]]:
    """Return what each pod of both releases has answered, and the release of each."""
    release = {pod.metadata.name: name for name in (SERVICE, CANARY) for pod in cluster.pods(NAMESPACE, name)}
    metrics = {pod: cluster.python(NAMESPACE, pod, CALL, f"{OPS}/metrics") for pod in release}
    return {pod: answered(text.partition(" ")[2]) for pod, text in metrics.items()}, release


def shared(cluster: Cluster, while_: Callable[[Counter[str]], bool]) -> Counter[str]:
    """Return how many requests each release answers from now on, for as long as a function of it says."""
    before, _ = counts(cluster)
    while True:
        after, release = counts(cluster)
        total = by_release(growth(before, after), release)
        if not while_(total):
            return total
        time.sleep(1)


def at_least(count: int, found: list[Any]) -> list[Any]:
    """Return what was found once it is enough."""
    return found if len(found) >= count else []


def test_the_tools_are_installed_and_the_cluster_is_made_and_valid(type_section: Callable[[str], None]) -> None:
    type_section("Tools")
    type_section("Cluster")


def test_a_service_is_rendered(type_section: Callable[[str], None], service: Service, wheel: Path) -> None:
    type_section("Service")
    service.vendor(wheel)
    assert (service.folder / "k8s" / "overlays" / "canary").is_dir()


def test_its_image_is_in_the_registry(type_section: Callable[[str], None]) -> None:
    type_section("Image")
    with urllib.request.urlopen(f"http://127.0.0.1:5001/v2/{SERVICE}/tags/list", timeout=10) as answer:
        assert "0.1.0" in json.load(answer)["tags"]


def test_it_runs_as_in_production_with_the_proxy_of_the_mesh(
    type_section: Callable[[str], None], cluster: Cluster, mesh: str
) -> None:
    type_section("Deploy")
    # The autoscaler makes three of one.
    pods = eventually("there are three pods", lambda: at_least(3, cluster.pods(NAMESPACE, SERVICE)))
    assert [pod.metadata.name for pod in pods if not is_meshed(pod, mesh)] == []
    assert versions(cluster, SERVICE) == {"0.1.0"}


def test_it_is_called_from_outside(type_section: Callable[[str], None], laptop: Laptop) -> None:
    eventually("the door is open", lambda: laptop.run(f"curl -s -o /dev/null -w '%{{http_code}}' {HOST}/v1/orders"))
    type_section("Call")


def test_grafana_shows_it(laptop: Laptop, mesh: str, page: Page) -> None:
    grafana, _ = sections(mesh)["Watch"]
    laptop.type(grafana)
    page.goto("http://127.0.0.1:3000/d/microservice-detail?var-job=order-service&from=now-15m&to=now&refresh=10s")
    # A legend names what its panel has drawn: without data there is no route.
    expect(page.get_by_text("/v1/orders", exact=True).first).to_be_visible(timeout=120_000)


def test_jaeger_has_its_traces(laptop: Laptop, mesh: str) -> None:
    _, jaeger = sections(mesh)["Watch"]
    laptop.type(jaeger)

    def traces() -> list[object]:
        url = f"http://127.0.0.1:16686/api/traces?service={SERVICE}&limit=5"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[object] = json.load(answer)["data"]
        return found

    assert eventually("Jaeger has traces of the service", traces)
    laptop.stop()


def test_a_canary_answers_nobody_but_those_who_ask_for_it(
    type_section: Callable[[str], None], laptop: Laptop, cluster: Cluster, mesh: str
) -> None:
    type_section("Canary")
    assert versions(cluster, CANARY) == {"0.2.0"}
    assert [pod.metadata.name for pod in cluster.pods(NAMESPACE, CANARY) if not is_meshed(pod, mesh)] == []
    chosen = sections(mesh)["Canary"][-1].commands.splitlines()[-1]
    before, _ = counts(cluster)
    for line in [chosen] * 20 + [chosen.replace("-H 'x-canary: always' ", "")] * 20:
        assert laptop.run(line)
    after, release = counts(cluster)
    assert by_release(growth(before, after), release) == {CANARY: 20, SERVICE: 20}


@pytest.mark.parametrize(("heading", "share"), [("Ten of a hundred", 0.1), ("Half", 0.5), ("All", 1.0)])
def test_the_canary_answers_its_share(
    type_section: Callable[[str], None], cluster: Cluster, load: Load, heading: str, share: float
) -> None:
    type_section(heading)
    time.sleep(HEARD)
    check_share(shared(cluster, lambda total: load.running() and sum(total.values()) < ENOUGH), CANARY, share)


def test_promoted_it_is_production_and_no_request_has_failed(
    type_section: Callable[[str], None], cluster: Cluster, load: Load
) -> None:
    type_section("Promote")
    assert versions(cluster, SERVICE) == {"0.2.0"}
    eventually("the canary is gone", lambda: not cluster.pods(NAMESPACE, CANARY))
    after = shared(cluster, lambda total: load.running() and sum(total.values()) < ENOUGH)
    assert after[SERVICE] >= ENOUGH
    result = load.stop()
    assert result.requests > 4 * ENOUGH
    assert result.failures == 0, result.output


def test_it_is_rolled_back(type_section: Callable[[str], None], cluster: Cluster) -> None:
    type_section("Roll back")
    assert versions(cluster, SERVICE) == {"0.1.0"}


def test_nothing_is_left_of_it(laptop: Laptop, cluster: Cluster, mesh: str) -> None:
    *service, _whole_cluster = sections(mesh)["Clean up"]
    for block in service:
        laptop.type(block)
    eventually("the namespace is gone", lambda: cluster.try_kubectl("get", "namespace", NAMESPACE).code)
    resources = cluster.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    # Events tell of what was; metrics are no objects.
    kinds = ",".join(name for name in resources if not name.startswith("events") and "metrics.k8s.io" not in name)
    everywhere = ("--all-namespaces", "--ignore-not-found", "--output=name")
    for selector in (f"{NAME}={SERVICE}", f"{NAME}={CANARY}"):
        left = cluster.kubectl("get", kinds, "--selector", selector, *everywhere).splitlines()
        assert [line for line in left if not line.startswith("Warning: ")] == []
