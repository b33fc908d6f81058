"""A canary is production's second release: as production in all but its version, and never taken for it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KINDS, MESHES, ROOT, Render
from tests.e2e.pages import Terminal, blocks, clean_environment
from tests.manifests.tools import (
    Built,
    Manifest,
    build,
    environment,
    has_canary,
    is_canary,
    name_of,
    one,
    pick,
    pod_of,
    pods_of,
    ports,
    release,
    service_container,
)

CASES = [(kind, mesh) for kind in KINDS for mesh in MESHES if has_canary(kind, mesh)]
STABLE, CANARY = "order-service", "order-service-canary"
# What leads to the service from outside and inside, and what both releases are known by.
ONCE = frozenset({"Namespace", "ServiceAccount", "Ingress", "Gateway", "VirtualService"})


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Kind and mesh of each service that can have a canary."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def canary(case: tuple[str, str], built: Built) -> list[Manifest]:
    """Return all that is deployed during a canary."""
    return built(*case, "canary")


@pytest.fixture
def production(case: tuple[str, str], built: Built) -> list[Manifest]:
    """Return all that is deployed otherwise."""
    return built(*case, "production")


@pytest.fixture
def service(case: tuple[str, str], render: Render, tmp_path: Path) -> Path:
    """Return a rendered service of its own, to change."""
    kind, mesh = case
    return shutil.copytree(render(service_kind=kind, mesh=mesh), tmp_path / "service", symlinks=True)


def replace(file: Path, pattern: str, text: str) -> None:
    """Replace what a file surely holds."""
    changed, count = re.subn(pattern, text, file.read_text(), flags=re.MULTILINE)
    assert count
    file.write_text(changed)


def leads(manifest: Manifest) -> bool:
    """Say whether an object leads requests to the service."""
    parents = manifest.get("spec", {}).get("parentRefs", [])
    return manifest["kind"] == "VirtualService" or any(each["kind"] == "Service" for each in parents)


def rules(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Return the rules of all routes."""
    return [
        rule for each in manifests if leads(each) for key in ("http", "rules") for rule in each["spec"].get(key, [])
    ]


def backends(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return where a rule leads, as either mesh writes it."""
    return [*rule.get("route", []), *rule.get("backendRefs", [])]


def targets(rule: dict[str, Any]) -> dict[str, int | None]:
    """Return the weight of each Service that a rule leads to, none where it leads to one only."""
    ends = [(each.get("destination", each), each.get("weight")) for each in backends(rule)]
    return {end.get("host", end.get("name")): weight for end, weight in ends}


def split(manifests: list[Manifest]) -> list[dict[str, int | None]]:
    """Return the weights of each rule that leads to both releases."""
    return [targets(rule) for rule in rules(manifests) if len(targets(rule)) == 2]


def chosen(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Return the rules that lead to the canary alone."""
    return [rule for rule in rules(manifests) if targets(rule).keys() == {CANARY}]


def test_the_shared_gateway_leads_to_both_releases(service: Path, case: tuple[str, str]) -> None:
    production = service / "k8s/overlays/production/kustomization.yaml"
    replace(production, rf"^  - ../../components/{case[1]}$", r"\g<0>\n  - ../../components/gateway")
    built = build(service / "k8s/overlays/canary")
    routes = [each for each in built if f"{STABLE}-gateway" in each["metadata"]["name"]]
    names = [each["metadata"]["name"] for each in routes]
    assert set(names) <= {f"{STABLE}-gateway", f"{STABLE}-gateway-calls"}
    assert len(names) == len(set(names)) >= 1  # of two kinds, too: Istio takes one of a name
    for route in routes:
        led = [targets(rule) for rule in route["spec"]["rules"]]
        # Linkerd splits behind the gateway, which is in the mesh.
        assert led == ([{STABLE: 100, CANARY: 0}, {CANARY: None}] if case[1] == "istio" else [{STABLE: None}])


def test_every_route_of_production_leads_to_both_releases(canary: list[Manifest], production: list[Manifest]) -> None:
    assert len(split(canary)) == len(rules(production)) >= 1


def test_as_rendered_only_those_who_choose_the_canary_meet_it(canary: list[Manifest]) -> None:
    assert all(each == {STABLE: 100, CANARY: 0} for each in split(canary))


def test_two_numbers_in_one_file_are_the_weights_of_every_route(service: Path) -> None:
    weights = service / "k8s/overlays/canary/weights.yaml"
    replace(weights, "^stable:.*", "stable: 75")
    replace(weights, "^canary:.*", "canary: 25")
    found = split(build(service / "k8s/overlays/canary"))
    assert found
    assert all(each == {STABLE: 75, CANARY: 25} for each in found)
    assert all(type(weight) is int for each in found for weight in each.values())


def test_the_weights_themselves_are_not_deployed(canary: list[Manifest]) -> None:
    assert not pick(canary, "Weights")


def test_a_header_chooses_the_canary_behind_every_door(canary: list[Manifest]) -> None:
    doors = {port for name, port in ports(release(canary, "stable")).items() if name != "ops"}
    ends = [each.get("destination", each) for rule in chosen(canary) for each in backends(rule)]
    assert {end["port"]["number"] if "host" in end else end["port"] for end in ends} == doors
    for rule in chosen(canary):
        matches = rule.get("match", rule.get("matches"))
        assert matches
        assert all(headers(match) == {"x-canary": "always"} for match in matches)


def headers(match: dict[str, Any]) -> dict[str, str]:
    """Return the headers that a match asks for, as either mesh writes them."""
    found = match["headers"]
    if isinstance(found, dict):
        return {name: value["exact"] for name, value in found.items()}
    return {each["name"]: each["value"] for each in found}


@pytest.mark.parametrize("kind", [kind for kind, mesh in CASES if mesh == "istio"])
def test_in_istio_where_the_first_match_wins_the_choice_comes_first(built: Built, kind: str) -> None:
    manifests = built(kind, "istio", "canary")
    assert rules(manifests)[: len(chosen(manifests))] == chosen(manifests)


@pytest.mark.parametrize("kind", [kind for kind, mesh in CASES if mesh == "linkerd"])
def test_in_linkerd_where_the_narrowest_match_wins_the_choice_narrows_each_route(built: Built, kind: str) -> None:
    for route in filter(leads, built(kind, "linkerd", "canary")):
        common, choice = route["spec"]["rules"]
        assert targets(choice) == {CANARY: None}
        narrower = [{key: value for key, value in match.items() if key != "headers"} for match in choice["matches"]]
        assert narrower == common.get("matches", [{}])


def test_production_itself_changes_in_nothing_but_its_routes(
    canary: list[Manifest], production: list[Manifest]
) -> None:
    stable = [each for each in canary if not is_canary(each) and not leads(each)]
    assert stable == [each for each in production if not leads(each)]


def test_what_production_has_the_canary_has_but_what_there_is_once(
    canary: list[Manifest], production: list[Manifest]
) -> None:
    twice = [each for each in production if each["kind"] not in ONCE and not leads(each) and not migrates(each)]
    mine = {key: value for each in canary if is_canary(each) for key, value in as_stable(each).items()}
    theirs = {key: value for each in twice for key, value in as_stable(each).items()}
    assert mine == theirs


def migrates(manifest: Manifest) -> bool:
    """Say whether it is a policy of the pods that migrate, which both releases have."""
    return manifest["kind"] == "NetworkPolicy" and "-migrate" in name_of(manifest)


def as_stable(manifest: Manifest) -> dict[str, Manifest]:
    """Return the object by its kind and name, without what tells a release from the other."""
    text = re.sub(r"order-service([a-z0-9.-]*?)-canary", r"order-service\1", json.dumps(manifest))
    plain: Manifest = json.loads(text)
    # Kustomize labels the base's objects, and all of the canary's.
    plain["metadata"].get("labels", {}).pop("app.kubernetes.io/name", None)
    if not plain["metadata"].get("labels", True):
        del plain["metadata"]["labels"]
    if plain["kind"] == "HorizontalPodAutoscaler":
        del plain["spec"]["minReplicas"]
    return {f"{plain['kind']} {name_of(plain)}": plain}


def selectors(node: Any) -> Iterator[dict[str, str]]:
    """Yield the labels by which an object selects pods of its own namespace."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in {"selector", "podSelector", "labelSelector"} and value:
            yield value.get("matchLabels", value)
        for child in value if isinstance(value, list) else [value]:
            yield from selectors(child)


def test_no_release_selects_the_pods_of_the_other(canary: list[Manifest]) -> None:
    for mine, other in (("stable", "canary"), ("canary", "stable")):
        objects = [each for each in canary if is_canary(each) == (mine == "canary")]
        labels = pod_of(release(canary, other))["metadata"]["labels"]
        found = [selector for each in objects for selector in selectors(each.get("spec", {}))]
        assert len(found) >= 6
        assert not [selector for selector in found if selector.items() <= labels.items()]


def test_the_canary_by_itself_is_what_ends_with_it(
    case: tuple[str, str], render: Render, canary: list[Manifest]
) -> None:
    kind, mesh = case
    alone = build(render(service_kind=kind, mesh=mesh) / "k8s/overlays/canary/release")
    assert alone == [each for each in canary if is_canary(each)]


def test_the_canary_has_the_identity_and_the_settings_of_production(canary: list[Manifest]) -> None:
    both = [release(canary, name) for name in ("stable", "canary")]
    assert len({pod["spec"]["serviceAccountName"] for each in both for pod in pods_of(each)}) == 1
    assert environment(both[0]) == environment(both[1])
    assert environment(both[1])["ENVIRONMENT"] == "production"


def test_a_setting_that_changes_in_production_changes_in_the_canary(service: Path) -> None:
    overlay = service / "k8s/overlays/production/kustomization.yaml"
    replace(overlay, "LOG_LEVEL=info", "LOG_LEVEL=warning")
    canary = release(build(service / "k8s/overlays/canary"), "canary")
    assert environment(canary)["LOG_LEVEL"] == "warning"


@pytest.mark.parametrize("tag", ["1.3.0", "1.3.0-rc.1"])
def test_each_release_has_a_version_of_its_own_and_migrates_to_it(service: Path, tag: str) -> None:
    for folder, version in (("production", "1.2.0-hotfix"), ("canary/release", tag)):
        replace(service / "k8s/overlays" / folder / "kustomization.yaml", "newTag: .*", f"newTag: {version}")
    manifests = build(service / "k8s/overlays/canary")
    for name, version, suffix in (("stable", "1.2.0-hotfix", ""), ("canary", tag, "-canary")):
        of_it = release(manifests, name)
        assert service_container(of_it)["image"] == f"registry.example.com/shop/order-service:{version}"
        for job in pick(of_it, "Job"):
            assert name_of(job) == f"order-service-migrate-{version}{suffix}"
            assert job["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f":{version}")


def test_the_page_can_be_typed_in_a_service(service: Path) -> None:
    terminal = Terminal(service, clean_environment(), lambda text: text, ready="")
    for block in blocks((ROOT / "docs/rollout.md").read_text()):
        terminal.type(block)
    manifests = build(service / "k8s/overlays/canary")
    assert all(each == {STABLE: 90, CANARY: 10} for each in split(manifests))
    tags = [service_container(release(manifests, name))["image"].rpartition(":")[2] for name in ("stable", "canary")]
    assert tags == ["0.1.0", "1.3.0"]


def test_a_canary_grows_with_its_share_from_a_single_pod(canary: list[Manifest]) -> None:
    stable, own = (one(release(canary, name), "HorizontalPodAutoscaler")["spec"] for name in ("stable", "canary"))
    assert own["minReplicas"] == 1
    assert own["maxReplicas"] == stable["maxReplicas"]
