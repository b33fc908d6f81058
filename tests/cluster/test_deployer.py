"""What the account of a pipeline may not do, by its own token."""

from __future__ import annotations

import pytest

from tests.cluster.kubectl import Kubectl
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

NAMESPACE = "pipeline"


@pytest.fixture(scope="session")
def deployer(cluster: Kubectl) -> Kubectl:
    """kubectl as the account of a namespace."""
    cluster.namespace(NAMESPACE)
    cluster("apply", f"--namespace={NAMESPACE}", f"--kustomize={ROOT / 'k8s' / 'policies' / 'namespace'}")
    return cluster.account("deployer", NAMESPACE)


def may(deployer: Kubectl, verb: str, resource: str, namespace: str = NAMESPACE) -> bool:
    """Ask the server."""
    name, _, subresource = resource.partition("/")
    asked = ("auth", "can-i", verb, name, f"--subresource={subresource}", f"--namespace={namespace}")
    return deployer.run(*asked).stdout == "yes\n"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "serviceaccounts/token"),
        ("create", "roles"),
        ("create", "rolebindings"),
        ("patch", "resourcequotas"),
        ("patch", "limitranges"),
        ("impersonate", "serviceaccounts"),
    ],
)
def test_it_may_not_in_its_own_namespace(deployer: Kubectl, verb: str, resource: str) -> None:
    assert may(deployer, "patch", "deployments")
    assert not may(deployer, verb, resource)


@pytest.mark.parametrize("verb", ["get", "create", "patch", "delete"])
def test_it_may_nothing_in_other_namespaces(deployer: Kubectl, verb: str) -> None:
    assert may(deployer, verb, "deployments")
    assert not may(deployer, verb, "deployments", "default")


def test_it_cannot_take_the_standard_of_pods_from_its_namespace(deployer: Kubectl) -> None:
    label = "pod-security.kubernetes.io/enforce=privileged"
    said = deployer.refused("label", "namespace", NAMESPACE, label)
    assert 'cannot patch resource "namespaces"' in said


def test_it_cannot_give_itself_more(deployer: Kubectl) -> None:
    more = ("create", "rolebinding", "more", "--clusterrole=admin", f"--serviceaccount={NAMESPACE}:deployer")
    said = deployer.refused(*more, f"--namespace={NAMESPACE}")
    assert 'cannot create resource "rolebindings"' in said
