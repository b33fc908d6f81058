"""A canary, faults and limits, by real Envoys that Istio's own code has configured."""

from __future__ import annotations

import functools
import http.client
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest

from tests.manifests.tools import Manifest, build, pick

from .conftest import Manifests, Overlays
from .istiod import Json, ask
from .objects import platform, seen_by_istiod
from .proxy import every
from .stack import SECONDS, Mesh
from .stub import Stub

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("istio")]

REQUESTS = 2000
CHOSEN = {"x-canary": "always"}
METHOD = "/order_service.v1.OrderService/PlaceOrder"
Releases = tuple[Mesh, Stub, Stub]
Edited = Callable[..., list[Manifest]]
Way = Callable[[Mesh, str, int, dict[str, str]], list[int | grpc.StatusCode]]


@pytest.fixture(scope="module")
def releases(kind: str, manifests: Manifests) -> Iterator[Releases]:
    """A mesh of two releases with a pod each, in which nothing of a service runs, but what counts."""
    with ExitStack() as stack:
        stable, canary = stack.enter_context(closing(Stub())), stack.enter_context(closing(Stub()))
        applications = {"order-service": [stable], "order-service-canary": [canary]}
        yield stack.enter_context(closing(Mesh(manifests(kind, "canary"), applications))), stable, canary


@pytest.fixture
def edited(kind: str, overlays: Overlays, tmp_path: Path) -> Edited:
    """Return a function that builds an overlay of the kind after an edit of some of the rendered files."""

    def edited(overlay: str, *edits: tuple[str, str, str]) -> list[Manifest]:
        folder = shutil.copytree(overlays(kind).parent, tmp_path / "k8s")
        for file, old, new in edits:
            text, count = re.subn(old, new, (folder / file).read_text(), flags=re.MULTILINE)
            assert count
            (folder / file).write_text(text)
        return build(folder / "overlays" / overlay)

    return edited


def split(edited: Edited, stable: int, canary: int, *more: tuple[str, str, str]) -> list[Manifest]:
    """Return the canary with these weights, after more edits."""
    file = "overlays/canary/weights.yaml"
    weights = (file, "^stable:.*", f"stable: {stable}"), (file, "^canary:.*", f"canary: {canary}")
    return edited("canary", *weights, *more)


def with_components(edited: Edited, *names: str) -> list[Manifest]:
    """Return the overlay for development clusters with more components, whose limits are low."""
    more = "".join(f"\n  - ../../components/{name}" for name in names)
    limits = "components/rate-limit/limits.yaml"
    return edited(
        "service-mesh",
        ("overlays/service-mesh/kustomization.yaml", "^  - ../../components/istio$", rf"\g<0>{more}"),
        (limits, "^perSecond:.*", "perSecond: 1"),
        (limits, "^burst:.*", "burst: 5"),
    )


def send(mesh: Mesh, door: str, count: int, headers: dict[str, str]) -> list[int | grpc.StatusCode]:
    """Send this many requests over one connection; return what was answered."""
    if door == "http":
        with closing(http.client.HTTPConnection(mesh.service, mesh.ports["http"], timeout=SECONDS)) as connection:
            return [request(connection, headers) for _ in range(count)]
    with mesh.channel() as channel:
        return [rpc(channel, headers) for _ in range(count)]


def send_from_outside(
    hosts: dict[str, str], mesh: Mesh, door: str, count: int, headers: dict[str, str]
) -> list[int | grpc.StatusCode]:
    """Send this many requests over one connection to the Gateway that all services share; return what was answered."""
    host = hosts[door]
    if door == "http":
        with closing(mesh.connection_from_outside(host)) as connection:
            return [request(connection, {"host": host, **headers}) for _ in range(count)]
    with mesh.channel_from_outside(host) as channel:
        return [rpc(channel, headers) for _ in range(count)]


def request(connection: http.client.HTTPConnection, headers: dict[str, str]) -> int:
    """Send one request."""
    connection.request("POST", "/v1/orders", "{}", {"host": "order-service", **headers})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def rpc(channel: grpc.Channel, headers: dict[str, str]) -> grpc.StatusCode:
    """Make one call."""
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    try:
        method(b"", timeout=SECONDS, metadata=tuple(headers.items()))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def weights(mesh: Mesh, proxy: str) -> set[tuple[int, ...]]:
    """Return how a proxy splits requests."""
    splits = [
        each["weightedClusters"]["clusters"] for each in every(mesh.answer.proxies[proxy]) if "weightedClusters" in each
    ]
    return {tuple(part["weight"] for part in split) for split in splits}


def seen(releases: Releases, count: int, headers: dict[str, str], by: Way = send) -> list[tuple[int, int]]:
    """Send requests to each door; return how many of them each release has seen."""
    mesh, stable, canary = releases
    found = []
    for door in mesh.doors:
        stable.reset()
        canary.reset()
        assert set(by(mesh, door, count, headers)) <= {200, grpc.StatusCode.OK}
        found.append((len(stable.arrived), len(canary.arrived)))
    return found


def test_a_canary_gets_nothing_before_its_weight_is_raised(releases: Releases) -> None:
    assert set(seen(releases, 100, {})) == {(100, 0)}


def test_the_header_chooses_the_canary_whatever_its_weight(releases: Releases) -> None:
    assert set(seen(releases, 100, CHOSEN)) == {(0, 100)}


def test_only_the_one_word_in_the_header_chooses_the_canary(releases: Releases) -> None:
    assert set(seen(releases, 10, {"x-canary": "never"})) == {(10, 0)}


def test_the_header_chooses_the_canary_through_the_gateway(releases: Releases) -> None:
    mesh, stable, canary = releases
    stable.reset()
    canary.reset()
    if "http" in mesh.doors:
        assert mesh.call_from_outside("GET", "/v1/orders", **CHOSEN).status == 200
    if "grpc" in mesh.doors:
        with mesh.channel_from_outside() as channel:
            assert rpc(channel, CHOSEN) == grpc.StatusCode.OK
    assert (len(stable.arrived), len(canary.arrived)) == (0, len(mesh.doors))


def test_a_canary_gets_the_share_that_its_weight_says(releases: Releases, edited: Edited) -> None:
    releases[0].change(split(edited, 90, 10))
    check_tenth(seen(releases, REQUESTS, {}))
    assert weights(releases[0], "istio-ingress/gateway") == weights(releases[0], "shop/caller") == {(90, 10)}


def check_tenth(found: list[tuple[int, int]]) -> None:
    """Check that the canary has seen one request in ten."""
    # Six standard deviations: one run in five hundred million falls outside.
    allowed = 6 * math.sqrt(REQUESTS * 0.1 * 0.9)
    for stable, canary in found:
        assert stable + canary == REQUESTS
        assert abs(canary - REQUESTS * 0.1) <= allowed


def test_a_canary_has_its_share_of_what_comes_by_the_shared_gateway(releases: Releases, edited: Edited) -> None:
    production = "overlays/production/kustomization.yaml"
    door = (production, "^  - ../../components/istio$", r"\g<0>\n  - ../../components/gateway")
    manifests = split(edited, 90, 10, door)
    releases[0].change(manifests)
    assert (releases[0].answer.refused, releases[0].answer.warned) == ({}, {})
    routes = {"http": pick(manifests, "HTTPRoute"), "grpc": pick(manifests, "GRPCRoute")}
    hosts = {door: found[0]["spec"]["hostnames"][0] for door, found in routes.items() if found}
    by_the_gateway = functools.partial(send_from_outside, hosts)
    check_tenth(seen(releases, REQUESTS, {}, by_the_gateway))
    assert set(seen(releases, 20, CHOSEN, by_the_gateway)) == {(0, 20)}
    check_tenth(seen(releases, REQUESTS, {}))


def test_a_canary_gets_everything_at_the_end(releases: Releases, edited: Edited) -> None:
    releases[0].change(split(edited, 0, 100))
    assert set(seen(releases, 100, {})) == {(0, 100)}


def test_a_fault_comes_to_those_who_ask_for_it_and_to_nobody_else(releases: Releases, edited: Edited) -> None:
    mesh, stable, _ = releases
    mesh.change(with_components(edited, "faults"))
    stable.reset()
    expected = {"http": ({503}, {200}), "grpc": ({grpc.StatusCode.UNAVAILABLE}, {grpc.StatusCode.OK})}
    for door in mesh.doors:
        failed, good = expected[door]
        assert set(send(mesh, door, 20, {"x-fault": "abort"})) == failed
        assert not stable.arrived
        assert set(send(mesh, door, 20, {"x-fault": "no"})) == good
        stable.reset()
    delays = [
        each["delay"] for each in every(mesh.answer.proxies["shop/caller"]) if "fixedDelay" in str(each.get("delay"))
    ]
    assert delays
    assert all(each["fixedDelay"] == "5s" for each in delays)


def test_what_exceeds_the_limit_is_answered_before_the_service_sees_it(releases: Releases, edited: Edited) -> None:
    mesh, stable, _ = releases
    mesh.change(with_components(edited, "rate-limit"))
    stable.reset()
    expected: Json = {"http": (200, 429), "grpc": (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)}
    for door in mesh.doors:
        good, limited = expected[door]
        answers = send(mesh, door, 40, {})
        assert answers[:5] == [good] * 5
        assert set(answers[5:]) >= {limited}
        assert len(stable.arrived) == answers.count(good)
        stable.reset()
    prometheus = mesh.authority.context("monitoring", "prometheus")
    assert {mesh.call_pod(mesh.ports["ops"], "GET", "/metrics", prometheus).status for _ in range(20)} == {200}


def test_istio_accepts_both_components_together(edited: Edited) -> None:
    answer = ask(seen_by_istiod([*with_components(edited, "rate-limit", "faults"), *platform()]))
    # Of every EnvoyFilter it warns that it shows the inside of Istio.
    assert (answer.refused, list(answer.warned)) == ({}, ["EnvoyFilter/shop/order-service-rate-limit"])
