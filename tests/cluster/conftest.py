"""A cluster with all that a service plugs into: resource definitions and policies."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.conftest import ROOT
from tests.manifests import crds
from tests.manifests.tools import definitions
from tests.servers.requirement import missing

REFUSED = ROOT / "k8s" / "policies" / "refused"
# Installers make them.
NAMESPACES = ("cert-manager", "istio-system", "linkerd")
CREATE = ("create", "--dry-run=server", "--validate=strict")


@pytest.fixture(scope="session")
def admin(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """kubectl as the administrator, with every resource definition in the cluster."""
    if not shutil.which("kubectl"):
        missing("kubectl is not on the PATH")
    kubectl = Kubectl(kubeconfig, tmp_path_factory.mktemp("kubectl"))
    kubectl("apply", "--server-side", "--validate=strict", f"--filename={definitions()}")
    published = {"apiVersion": "v1", "kind": "List", "items": crds.definitions("cert-manager.io")}
    kubectl("apply", "--server-side", "--validate=strict", "--filename=-", given=json.dumps(published))
    for name in NAMESPACES:
        kubectl.namespace(name)
    kubectl("wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s")
    return kubectl


@pytest.fixture(scope="session")
def cluster(admin: Kubectl) -> Kubectl:
    """The same, once policies hold."""
    applied(admin)
    return admin


def applied(kubectl: Kubectl) -> None:
    """Apply the policies; servers notice after a moment."""
    kubectl("apply", "--server-side", "--validate=strict", f"--kustomize={ROOT / 'k8s' / 'policies'}")
    for file in sorted(REFUSED.glob("*.yaml")):
        attempt = (*CREATE, f"--filename={file}")
        eventually(functools.partial(fails, kubectl, attempt), f"{file.name} is refused")


def fails(kubectl: Kubectl, call: tuple[str, ...]) -> bool:
    """Return whether a call fails."""
    return kubectl.run(*call).returncode != 0
