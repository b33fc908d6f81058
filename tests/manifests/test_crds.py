"""Definitions that come as Go modules judge as strictly as the others, and are missed where they cannot be fetched."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.go import module
from tests.manifests import crds
from tests.manifests.tools import build, group_of, problems

OBJECTS = {
    "cert-manager.io": ("ingress/gateway", "Certificate"),
    "gateway.envoyproxy.io": ("ingress/envoy", "EnvoyProxy"),
    "argoproj.io": ("gitops/argocd", "ApplicationSet"),
    "kustomize.toolkit.fluxcd.io": ("gitops/flux", "Kustomization"),
    "source.toolkit.fluxcd.io": ("gitops/flux", "GitRepository"),
}


@pytest.mark.parametrize("group", crds.MODULES)
def test_a_typo_in_an_object_is_found(group: str) -> None:
    folder, kind = OBJECTS[group]
    (found,) = [each for each in build(ROOT / "k8s" / folder) if (group_of(each), each["kind"]) == (group, kind)]
    assert not problems(found)
    wrong = copy.deepcopy(found)
    wrong["spec"]["intervall"] = "1m"
    assert "intervall" in str(problems(wrong))


def test_a_wrong_value_deep_in_an_object_is_found() -> None:
    (found,) = [each for each in build(ROOT / "k8s/gitops/argocd") if each["kind"] == "ApplicationSet"]
    found["spec"]["template"]["spec"]["syncPolicy"]["automated"]["prune"] = "yes"
    assert "prune" in str(problems(found))


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("all", pytest.fail.Exception)])
def test_without_go_the_test_is_skipped_or_fails_where_all_is_required(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MARTY_REQUIRE", required)
    with pytest.raises(outcome, match="go is not there"):
        module.__wrapped__("example.com/none", "v1.0.0")


def test_a_module_that_cannot_be_fetched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARTY_REQUIRE", "all")
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(pytest.fail.Exception, match=r"github.com/argoproj/argo-cd/v3@v3\.0\.99 cannot be fetched"):
        module.__wrapped__("github.com/argoproj/argo-cd/v3", "v3.0.99")
