"""What is in k8s/: every object is one that a strict API server takes, and the policies refuse what they are for."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.conftest import KINDS, MESHES, ROOT
from tests.manifests.test_linters import YAMLLINT, checkov, linter
from tests.manifests.tools import (
    CORE_GROUPS,
    KUBERNETES,
    Built,
    Manifest,
    build,
    group_of,
    one,
    overlays,
    pick,
    problems,
)
from tests.template.test_build_files import run, tool

K8S = ROOT / "k8s"
FOLDERS = (
    "gitops/argocd",
    "gitops/flux",
    "gitops/services",
    "gitops/services/order-service",
    "ingress/envoy",
    "ingress/gateway",
    "ingress/issuers",
    "ingress/istio",
    "ingress/linkerd",
    "mesh/istio",
    "mesh/linkerd",
    "policies",
    "policies/namespace",
)
# Built as parts of others: see test_gitops.py and test_ingress.py.
COMPONENTS = {"gitops/flux/service", "ingress/acme"}
EXCEPTIONS = {"CKV_K8S_21": "policies/namespace is applied with --namespace NAME"}
# Beside those that services use.
BUILT_IN = CORE_GROUPS | {"admissionregistration.k8s.io", "rbac.authorization.k8s.io"}
POLICIES = ("latest", "limits", "name", "root")


def wrong(manifest: Manifest) -> list[str]:
    """Return what the strict schema has against an object."""
    if group_of(manifest) not in BUILT_IN:
        return problems(manifest)
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    return []


def read(name: str) -> Manifest:
    """Return the only object of a file."""
    found: Manifest = yaml.safe_load((K8S / name).read_text())
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_satisfies_its_strict_schema(folder: str) -> None:
    manifests = build(K8S / folder)
    assert manifests
    assert not {f"{each['kind']} {each['metadata']['name']}": found for each in manifests if (found := wrong(each))}


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_to_be_refused_is_valid_otherwise(name: str) -> None:
    assert wrong(read(f"policies/refused/{name}.yaml")) == []


def test_no_folder_is_left_out() -> None:
    found = {path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")}
    assert {folder for folder in found if not folder.startswith("observability")} == {*FOLDERS, *COMPONENTS}


def test_yamllint_has_nothing_against_the_files() -> None:
    folders = sorted(
        str(path) for path in K8S.iterdir() if path.name != "observability" and path.suffix in {"", ".yaml"}
    )
    done = linter("yamllint@1.38.0", "--strict", "--config-data", YAMLLINT, *folders)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checkov_has_nothing_against_what_is_applied(tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / f"{folder.replace('/', '-')}.yaml").write_text(yaml.safe_dump_all(build(K8S / folder)), "utf-8")
    judged, failed = checkov(tmp_path)
    assert judged
    assert {each.partition(" ")[0] for each in failed} == EXCEPTIONS.keys()


def test_shellcheck_passes_the_scripts() -> None:
    scripts = sorted(map(str, [*K8S.glob("*.sh"), *Path(__file__).parent.glob("*.sh")]))
    run(tool("shellcheck"), "--external-sources", *scripts, cwd=K8S)


# Admission: what the policies do is in tests/cluster/test_admission.py ---------------------------------------------


def test_every_policy_is_bound_and_leaves_the_platform_alone() -> None:
    manifests = build(K8S / "policies")
    bindings = {
        each["spec"]["policyName"]: each["spec"] for each in pick(manifests, "ValidatingAdmissionPolicyBinding")
    }
    policies = {each["metadata"]["name"] for each in pick(manifests, "ValidatingAdmissionPolicy")}
    assert set(bindings) == policies == {f"marty-{name}" for name in POLICIES}
    for spec in bindings.values():
        assert "Deny" in spec["validationActions"]
        (selector,) = spec["matchResources"]["namespaceSelector"]["matchExpressions"]
        observing = {each["metadata"]["name"] for each in pick(build(K8S / "observability"), "Namespace")}
        assert {"kube-system", "istio-system", "linkerd", *observing} <= set(selector["values"])


# Deployers --------------------------------------------------------------------------------------------------------


def test_a_deployer_may_apply_what_is_rendered_and_read_no_secret(built: Built) -> None:
    (role,) = pick(build(K8S / "policies"), "ClusterRole")
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    rendered = [
        each for kind in KINDS for mesh in MESHES for overlay in overlays(mesh) for each in built(kind, mesh, overlay)
    ]
    used = {(group_of(each), plural(each["kind"])) for each in rendered}
    used.discard(("", "namespaces"))
    assert not {pair for pair in used if not {"get", "create", "patch"} <= granted.get(pair, set())}
    assert granted["", "namespaces"] == {"get"}
    assert not [
        resource for _, resource in granted if resource in {"secrets", "pods/exec", "roles", "rolebindings", "*"}
    ]
    (binding,) = pick(build(K8S / "policies" / "namespace"), "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def plural(kind: str) -> str:
    """Return the resource of a kind."""
    name = kind.lower()
    if name.endswith("y") and not name.endswith("ay"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"


# Meshes -----------------------------------------------------------------------------------------------------------


def test_istio_denies_by_default_and_takes_no_plain_text() -> None:
    manifests = {(each["kind"], each["metadata"]["name"]): each for each in build(K8S / "mesh/istio")}
    assert manifests["PeerAuthentication", "default"]["spec"]["mtls"] == {"mode": "STRICT"}
    assert manifests["AuthorizationPolicy", "allow-nothing"]["spec"] == {}
    for name in ("default", "allow-nothing"):
        kind = "PeerAuthentication" if name == "default" else "AuthorizationPolicy"
        assert manifests[kind, name]["metadata"]["namespace"] == "istio-system"


def test_linkerd_denies_by_default() -> None:
    assert yaml.safe_load((K8S / "mesh/linkerd/install.yaml").read_text())["proxy"]["defaultInboundPolicy"] == "deny"


@pytest.mark.parametrize("file", ["install", "ambient"])
def test_both_ways_to_install_istio_let_nothing_out_that_is_not_named(file: str) -> None:
    spec = read(f"mesh/istio/{file}.yaml")["spec"]
    assert spec["meshConfig"]["outboundTrafficPolicy"] == {"mode": "REGISTRY_ONLY"}


@pytest.mark.parametrize("file", ["install", "ambient"])
def test_proxies_send_their_spans_to_the_collector(file: str) -> None:
    (provider,) = read(f"mesh/istio/{file}.yaml")["spec"]["meshConfig"]["extensionProviders"]
    name, namespace, _ = provider["opentelemetry"]["service"].split(".", 2)
    services = [each for each in pick(build(K8S / "observability"), "Service") if each["metadata"]["name"] == name]
    assert [each["metadata"]["namespace"] for each in services] == [namespace]
    assert provider["opentelemetry"]["port"] in {port["port"] for port in services[0]["spec"]["ports"]}
    telemetry = one(build(K8S / "mesh/istio"), "Telemetry")["spec"]["tracing"][0]["providers"]
    assert telemetry == [{"name": provider["name"]}]


def test_the_gateway_is_where_the_services_look_for_it(built: Built) -> None:
    (gateway,) = pick(built("fastapi", "istio", "production"), "Gateway")
    (door,) = read("mesh/istio/install.yaml")["spec"]["components"]["ingressGateways"]
    assert door["name"] == f"istio-{gateway['spec']['selector']['istio']}"
    node_ports = {port["nodePort"] for port in door["k8s"]["service"]["ports"]}
    mapped = yaml.safe_load((K8S / "kind.yaml").read_text())["nodes"][0]["extraPortMappings"]
    assert node_ports == {port["containerPort"] for port in mapped}
    assert {port["listenAddress"] for port in mapped} == {"127.0.0.1"}
