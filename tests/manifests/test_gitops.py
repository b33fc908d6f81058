"""GitOps for services made by Marty: one list for Argo CD and Flux, least rights, overlays as both would apply them."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import KINDS, MESHES, ROOT, Render
from tests.manifests.test_platform import plural
from tests.manifests.tools import Built, Manifest, build, group_of, one, overlays, pick

GITOPS = ROOT / "k8s" / "gitops"
FOLDERS = sorted(path.parent for path in GITOPS.glob("services/*/service.yaml"))
SERVICES: list[dict[str, str]] = [yaml.safe_load((path / "service.yaml").read_text())["data"] for path in FOLDERS]


def argocd(kind: str) -> dict[str, Any]:
    """Return the spec of Argo CD's only object of a kind."""
    spec: dict[str, Any] = one(build(GITOPS / "argocd"), kind)["spec"]
    return spec


def flux(kind: str) -> list[Manifest]:
    """Return Flux's objects of a kind, in the order of the list."""
    found = {each["metadata"]["name"]: each for each in pick(build(GITOPS / "flux"), kind)}
    return [found.pop(service["name"]) for service in SERVICES] + list(found.values())


def patched(manifests: list[Manifest], patches: list[dict[str, Any]], folder: Path) -> list[Manifest]:
    """Return what is applied in the end: objects with the patches of Argo CD or Flux, which both leave to kustomize."""
    (folder / "built.yaml").write_text(yaml.safe_dump_all(manifests), encoding="utf-8")
    kustomization = {"resources": ["built.yaml"], "patches": patches}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return build(folder)


def test_the_list_is_whole() -> None:
    assert SERVICES
    named = yaml.safe_load((GITOPS / "services" / "kustomization.yaml").read_text())["resources"]
    assert named == [folder.name for folder in FOLDERS] == [service["name"] for service in SERVICES]
    assert len({(folder / "kustomization.yaml").read_text() for folder in FOLDERS}) == 1


def test_argo_cd_reads_the_list_and_every_field_of_it() -> None:
    (generator,) = argocd("ApplicationSet")["generators"]
    (pattern,) = generator["git"]["files"]
    assert sorted(ROOT.glob(pattern["path"])) == [folder / "service.yaml" for folder in FOLDERS]
    used = re.findall(r"{{ \.data\.(\w+) }}", yaml.safe_dump(argocd("ApplicationSet")["template"]))
    assert all(set(used) == service.keys() for service in SERVICES)


def test_flux_is_told_the_same() -> None:
    sources, kustomizations = flux("GitRepository"), flux("Kustomization")
    assert len(sources) == len(kustomizations) == len(SERVICES)
    for service, source, kustomization in zip(SERVICES, sources, kustomizations, strict=True):
        assert source["spec"]["url"] == service["repository"]
        assert source["spec"]["ref"] == {"branch": service["revision"]}
        assert kustomization["spec"]["path"] == service["path"]
        assert kustomization["spec"]["sourceRef"] == {"kind": "GitRepository", "name": source["metadata"]["name"]}
        assert {each["metadata"]["namespace"] for each in (source, kustomization)} == {service["namespace"]}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service["name"])
def test_a_service_of_the_list_is_let_in_by_the_project_and_has_an_overlay(
    service: dict[str, str], render: Render
) -> None:
    project = argocd("AppProject")
    assert any(fnmatch.fnmatch(service["repository"], pattern) for pattern in project["sourceRepos"])
    assert service["namespace"] in {each["namespace"] for each in project["destinations"]}
    assert (render() / service["path"] / "kustomization.yaml").exists()


def test_the_project_allows_the_namespaces_of_the_list_only() -> None:
    project = argocd("AppProject")
    namespaces = {service["namespace"] for service in SERVICES}
    for field in ("destinations", "destinationServiceAccounts"):
        assert {each["namespace"] for each in project[field]} == namespaces


def test_the_project_allows_what_services_have_and_no_more_than_a_deployer_may(built: Built) -> None:
    project = argocd("AppProject")
    allowed = {(each["group"], each["kind"]) for each in project["namespaceResourceWhitelist"]}
    rendered = {
        (group_of(each), each["kind"])
        for kind in KINDS
        for mesh in MESHES
        for overlay in overlays(mesh)
        for each in built(kind, mesh, overlay)
    }
    routes = {("gateway.networking.k8s.io", kind) for kind in ("GRPCRoute", "HTTPRoute")}
    assert allowed == rendered - {("", "Namespace")} | routes
    assert project["clusterResourceWhitelist"] == []
    rules = one(build(ROOT / "k8s" / "policies"), "ClusterRole")["rules"]
    writable = {
        (group, resource)
        for rule in rules
        if "delete" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert {(group, plural(kind)) for group, kind in allowed} == writable


def test_both_act_as_the_account_that_the_namespace_has_for_it() -> None:
    account = one(build(ROOT / "k8s" / "policies" / "namespace"), "ServiceAccount")["metadata"]["name"]
    assert {each["defaultServiceAccount"] for each in argocd("AppProject")["destinationServiceAccounts"]} == {account}
    assert {each["spec"]["serviceAccountName"] for each in flux("Kustomization")} == {account}


def test_both_undo_edits_and_remove_what_is_gone_and_argo_cd_does_so_last() -> None:
    policy = argocd("ApplicationSet")["template"]["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert {"PruneLast=true", "RespectIgnoreDifferences=true"} <= set(policy["syncOptions"])
    assert policy["retry"]["backoff"]["factor"] > 1
    for kustomization in flux("Kustomization"):
        assert (kustomization["spec"]["prune"], kustomization["spec"]["wait"]) == (True, True)


@pytest.mark.parametrize("mesh", MESHES)
def test_argo_cd_applies_all_but_the_namespace(built: Built, tmp_path: Path, mesh: str) -> None:
    source = argocd("ApplicationSet")["template"]["spec"]["source"]
    whole = built("message-queue", mesh, "production")
    applied = patched(whole, source["kustomize"]["patches"], tmp_path)
    assert sorted(each["kind"] for each in applied) == sorted(
        each["kind"] for each in whole if each["kind"] != "Namespace"
    )


@pytest.mark.parametrize("kind", ["message-queue", "fastapi"])
def test_flux_applies_no_namespace_and_no_job_that_vanishes(built: Built, tmp_path: Path, kind: str) -> None:
    (kustomization, *_) = flux("Kustomization")
    whole = built(kind, "none", "production")
    applied = patched(whole, kustomization["spec"]["patches"], tmp_path)
    assert sorted(each["kind"] for each in applied) == sorted(
        each["kind"] for each in whole if each["kind"] != "Namespace"
    )
    assert [each for each in pick(whole, "Job") if "ttlSecondsAfterFinished" in each["spec"]] == pick(whole, "Job")
    assert not [each for each in pick(applied, "Job") if "ttlSecondsAfterFinished" in each["spec"]]


def test_flux_waits_longer_than_a_roll_out_may_take(built: Built) -> None:
    deployment = one(built("fastapi", "none", "production"), "Deployment")["spec"]
    for kustomization in flux("Kustomization"):
        minutes = int(kustomization["spec"]["timeout"].removesuffix("m"))
        assert minutes * 60 >= deployment.get("progressDeadlineSeconds", 600)


def test_every_path_that_the_page_names_is_there(render: Render) -> None:
    page = (ROOT / "docs" / "gitops.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bk8s/[\w./-]*\w", page)) - {"k8s/overlays/canary"}
    assert len(named) > 6
    assert not [path for path in named if not (ROOT / path).exists() and not (render() / path).exists()]
