"""Resource definitions that projects publish as Go modules.

Those of the meshes and of the Gateway API are not published so: `tools.custom_schemas` reads them from `MARTY_CRDS`.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.go import module


def pinned(name: str) -> str:
    """Return a version of `k8s/versions.env`."""
    found = re.search(rf"^{name}=(\S+)$", (ROOT / "k8s" / "versions.env").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, name
    return found[1]


# API group: module, version, folder of the definitions. Of each the newest that Go 1.26 takes; Envoy Gateway's patch
# releases are no modules.
MODULES = {
    "cert-manager.io": ("github.com/cert-manager/cert-manager", pinned("CERT_MANAGER_VERSION"), "deploy/crds"),
    "gateway.envoyproxy.io": (
        "github.com/envoyproxy/gateway",
        f"{pinned('ENVOY_GATEWAY_VERSION').rpartition('.')[0]}.0",
        "charts/gateway-helm/charts/crds/crds/generated",
    ),
    "argoproj.io": ("github.com/argoproj/argo-cd/v3", "v3.5.7", "manifests/crds"),
    "kustomize.toolkit.fluxcd.io": ("github.com/fluxcd/kustomize-controller", "v1.9.6", "config/crd/bases"),
    "source.toolkit.fluxcd.io": ("github.com/fluxcd/source-controller", "v1.9.6", "config/crd/bases"),
}


def specs(group: str) -> list[dict[str, Any]]:
    """Return the `spec` of each resource definition of an API group; none where no module publishes it."""
    return [each["spec"] for each in definitions(group)]


def definitions(group: str) -> list[dict[str, Any]]:
    """Return the resource definitions of an API group; none where no module publishes them."""
    if group not in MODULES:
        return []
    path, version, folder = MODULES[group]
    files = sorted((module(path, version) / folder).glob("*.yaml"))
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return [each for each in found if each["kind"] == "CustomResourceDefinition"]
