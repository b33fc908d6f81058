"""Every object that an overlay builds is one that a strict API server would take."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.conftest import KINDS, MESHES, Render
from tests.manifests.tools import Built, Manifest, custom_schemas, group_of, has_canary, one, overlays, pick, problems


def test_every_object_satisfies_its_strict_schema(manifests: list[Manifest]) -> None:
    found = {f"{each['kind']} {each['metadata']['name']}": problems(each) for each in manifests}
    assert not {name: wrong for name, wrong in found.items() if wrong}


def test_no_object_is_built_twice(manifests: list[Manifest]) -> None:
    names = [(group_of(each), each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_holds_exactly_the_overlays_that_are_built(render: Render, kind: str, mesh: str) -> None:
    folder = render(service_kind=kind, mesh=mesh) / "k8s" / "overlays"
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(
        overlays(mesh) + ["canary"] * has_canary(kind, mesh)
    )


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "HorizontalPodAutoscaler"])
def test_a_typo_in_a_core_object_is_found(built: Built, kind: str) -> None:
    wrong = copy.deepcopy(one(built("fastapi", "none", "development"), kind))
    wrong["spec"]["podSelektor"] = {}
    assert "podSelektor" in str(problems(wrong))


@pytest.mark.parametrize(
    ("mesh", "kind"),
    [
        ("istio", "VirtualService"),
        ("istio", "DestinationRule"),
        ("istio", "Gateway"),
        ("istio", "PeerAuthentication"),
        ("istio", "AuthorizationPolicy"),
        ("istio", "Telemetry"),
        ("linkerd", "Server"),
        ("linkerd", "HTTPRoute"),
        ("linkerd", "AuthorizationPolicy"),
        ("linkerd", "MeshTLSAuthentication"),
        ("linkerd", "NetworkAuthentication"),
    ],
)
def test_a_typo_in_a_custom_object_is_found(built: Built, mesh: str, kind: str) -> None:
    wrong = copy.deepcopy(pick(built("fastapi", mesh, "service-mesh"), kind)[0])
    assert not problems(wrong)
    wrong["spec"]["selektor"] = {}
    wrong["metadata"]["lables"] = {}
    found = str(problems(wrong))
    assert "selektor" in found
    assert "lables" in found


def test_a_typo_deep_in_a_custom_object_is_found(built: Built) -> None:
    wrong = copy.deepcopy(one(built("fastapi", "istio", "service-mesh"), "VirtualService"))
    wrong["spec"]["http"][0]["retries"]["retriesOn"] = "5xx"
    assert "retriesOn" in str(problems(wrong))


@pytest.mark.parametrize("api_version", ["example.com/v1", "networking.istio.io/v1alpha9"])
def test_an_object_without_a_schema_fails(api_version: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="no schema"):
        problems({"apiVersion": api_version, "kind": "VirtualService", "metadata": {"name": "x"}})


def test_a_core_kind_that_does_not_exist_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="schema"):
        problems({"apiVersion": "apps/v1beta1", "kind": "Deployment", "metadata": {"name": "x"}})


def test_missing_definitions_skip_the_test_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARTY_CRDS", str(tmp_path))
    monkeypatch.delenv("MARTY_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="MARTY_CRDS"):
        custom_schemas.__wrapped__()


def test_missing_definitions_fail_the_test_where_all_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARTY_CRDS", str(tmp_path))
    monkeypatch.setenv("MARTY_REQUIRE", "all")
    with pytest.raises(pytest.fail.Exception, match="MARTY_CRDS"):
        custom_schemas.__wrapped__()
