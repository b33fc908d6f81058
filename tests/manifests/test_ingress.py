"""The shared Gateway: one for all meshes, by the same ports, with a certificate, in pods that services let in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from tests.conftest import ROOT
from tests.go import module
from tests.manifests import crds
from tests.manifests.tools import Manifest, build, one, pick, problems

K8S = ROOT / "k8s"
INGRESS = K8S / "ingress"
FOLDERS = ("envoy", "istio", "linkerd")
ENVOY = ("envoy", "linkerd")


def objects(folder: str) -> list[Manifest]:
    """Return what is applied for one way to run the Gateway."""
    return build(INGRESS / folder)


def gateway(folder: str) -> Manifest:
    """Return the shared Gateway."""
    return one(objects(folder), "Gateway")


def read(name: str) -> Any:
    """Return the only object of a file in k8s/."""
    return yaml.safe_load((K8S / name).read_text(encoding="utf-8"))


def proxy(folder: str) -> dict[str, Any]:
    """Return what is said of the pods that Envoy Gateway makes."""
    provider: dict[str, Any] = one(objects(folder), "EnvoyProxy")["spec"]["provider"]["kubernetes"]
    return provider


def test_all_ways_have_the_same_listeners() -> None:
    assert gateway("istio")["spec"]["listeners"] == gateway("envoy")["spec"]["listeners"]
    assert gateway("linkerd") == gateway("envoy")


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_the_redirect_is_reached_without_tls(folder: str) -> None:
    plain, tls = gateway(folder)["spec"]["listeners"]
    assert (plain["protocol"], plain["allowedRoutes"]["namespaces"]["from"]) == ("HTTP", "Same")
    assert (tls["protocol"], tls["tls"]["mode"]) == ("HTTPS", "Terminate")
    route = one(objects(folder), "HTTPRoute")
    assert route["metadata"]["namespace"] == gateway(folder)["metadata"]["namespace"]
    assert route["spec"]["parentRefs"] == [
        {"name": gateway(folder)["metadata"]["name"], "sectionName": plain["name"]},
    ]
    (rule,) = route["spec"]["rules"]
    assert rule["filters"] == [
        {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}},
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_certificate_is_for_the_listener_and_of_an_issuer_that_there_is(folder: str) -> None:
    certificate = one(objects(folder), "Certificate")
    _, tls = gateway(folder)["spec"]["listeners"]
    assert tls["tls"]["certificateRefs"] == [{"name": certificate["spec"]["secretName"]}]
    assert certificate["spec"]["dnsNames"] == [tls["hostname"]]
    assert certificate["metadata"]["namespace"] == gateway(folder)["metadata"]["namespace"]
    issuers = {each["metadata"]["name"] for each in pick(build(INGRESS / "issuers"), "ClusterIssuer")}
    assert certificate["spec"]["issuerRef"]["name"] in issuers


def test_the_authority_is_where_its_issuer_looks_for_it() -> None:
    manifests = build(INGRESS / "issuers")
    authority = one(manifests, "Certificate")
    issuers = {each["metadata"]["name"]: each["spec"] for each in pick(manifests, "ClusterIssuer")}
    assert issuers["marty-ca"] == {"ca": {"secretName": authority["spec"]["secretName"]}}
    assert issuers[authority["spec"]["issuerRef"]["name"]] == {"selfSigned": {}}
    assert authority["spec"]["isCA"] is True
    assert authority["metadata"]["namespace"] == "cert-manager"


@pytest.mark.parametrize("folder", FOLDERS)
def test_acme_takes_the_place_of_the_clusters_own_authority(folder: str, tmp_path: Path) -> None:
    # kustomize takes relative paths only.
    here = Path(*[".."] * (len(tmp_path.resolve().parts) - 1)) / INGRESS.relative_to("/")
    parts = {"resources": [str(here / folder)], "components": [str(here / "acme")]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")
    manifests = build(tmp_path)
    issuer = one(manifests, "ClusterIssuer")
    certificate = one(manifests, "Certificate")
    assert not [*problems(issuer), *problems(certificate)]
    assert certificate["spec"]["issuerRef"]["name"] == issuer["metadata"]["name"]
    # HTTP-01 knows no wildcards.
    assert all("dns01" in each for each in issuer["spec"]["acme"]["solvers"])


def test_istio_runs_it_in_its_ingress_gateway() -> None:
    (door,) = read("mesh/istio/install.yaml")["spec"]["components"]["ingressGateways"]
    spec = gateway("istio")["spec"]
    assert spec["gatewayClassName"] == "istio"
    host = f"{door['name']}.{door['namespace']}.svc.cluster.local"
    assert spec["addresses"] == [{"type": "Hostname", "value": host}]
    assert gateway("istio")["metadata"]["namespace"] == door["namespace"]
    targets = {port["port"]: port["targetPort"] for port in door["k8s"]["service"]["ports"]}
    assert [targets[each["port"]] for each in spec["listeners"]] == [8080, 8443]


@pytest.mark.parametrize("folder", ENVOY)
def test_envoy_gateway_runs_it_as_its_class_says(folder: str) -> None:
    manifests = objects(folder)
    kind = one(manifests, "GatewayClass")
    assert gateway(folder)["spec"]["gatewayClassName"] == kind["metadata"]["name"]
    described = one(manifests, "EnvoyProxy")
    reference = kind["spec"]["parametersRef"]
    assert {key: reference[key] for key in ("name", "namespace")} == described["metadata"]
    policy = one(manifests, "BackendTrafficPolicy")
    assert policy["metadata"]["namespace"] == gateway(folder)["metadata"]["namespace"]
    assert [each["name"] for each in policy["spec"]["targetRefs"]] == [gateway(folder)["metadata"]["name"]]


@pytest.mark.parametrize("folder", ENVOY)
def test_all_ways_are_reached_by_the_ports_of_this_machine(folder: str) -> None:
    service = proxy(folder)["envoyService"]
    assert (service["type"], service["externalTrafficPolicy"]) == ("NodePort", "Cluster")
    ports = {each["port"]: each["nodePort"] for each in service["patch"]["value"]["spec"]["ports"]}
    (door,) = read("mesh/istio/install.yaml")["spec"]["components"]["ingressGateways"]
    assert ports == {port["port"]: port["nodePort"] for port in door["k8s"]["service"]["ports"]}
    assert list(ports) == [each["port"] for each in gateway(folder)["spec"]["listeners"]]
    mapped = read("kind.yaml")["nodes"][0]["extraPortMappings"]
    assert sorted(ports.values()) == [each["containerPort"] for each in mapped]


@pytest.mark.parametrize("folder", ENVOY)
def test_more_than_one_pod_runs_it_and_a_drain_leaves_one(folder: str) -> None:
    assert proxy(folder)["envoyDeployment"]["replicas"] > 1
    assert proxy(folder)["envoyPDB"] == {"maxUnavailable": 1}
    values = read("mesh/istio/install.yaml")["spec"]["values"]["gateways"]["istio-ingressgateway"]
    assert values["autoscaleMin"] > 1


def test_pods_of_the_gateway_are_restricted_and_let_in_by_services() -> None:
    spaces = {each["metadata"]["name"]: each["metadata"]["labels"] for each in pick(objects("envoy"), "Namespace")}
    spaces |= {
        each["metadata"]["name"]: each["metadata"]["labels"] for each in pick(build(K8S / "mesh/istio"), "Namespace")
    }
    for labels in spaces.values():
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {name for name, labels in spaces.items() if labels.get("network-role") == "ingress"} == {
        "envoy-gateway-system",
        "istio-ingress",
    }
    for file in ("install", "ambient"):
        (door,) = read(f"mesh/istio/{file}.yaml")["spec"]["components"]["ingressGateways"]
        assert door["k8s"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize("folder", FOLDERS)
def test_network_policies_deny_by_default_and_open_the_ports_of_the_listeners(folder: str) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in pick(objects(folder), "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in policies.values())
    anybody = [rule for rule in policies["gateway"]["ingress"] if "from" not in rule]
    # Ports below 1024 are moved: by 10000 in Envoy Gateway, by targetPort in Istio's Service.
    moved = [each["port"] + 10000 for each in gateway(folder)["spec"]["listeners"]]
    if folder == "istio":
        moved = [8080, 8443, 15021]
    assert [[each["port"] for each in rule["ports"]] for rule in anybody] == [moved]
    assert not [
        name
        for name, spec in policies.items()
        if name != "gateway"
        for rule in spec.get("ingress", [])
        if "from" not in rule
    ]


def test_linkerd_knows_the_gateway_by_a_certificate_and_sends_by_services() -> None:
    annotations = proxy("linkerd")["envoyDeployment"]["pod"]["annotations"]
    assert annotations["linkerd.io/inject"] == "enabled"
    policies = {each["metadata"]["name"]: each["spec"] for each in pick(objects("linkerd"), "NetworkPolicy")}
    outside = [str(each["port"]) for each in policies["gateway"]["ingress"][0]["ports"]]
    assert annotations["config.linkerd.io/skip-inbound-ports"] == ",".join(outside)
    assert one(objects("linkerd"), "EnvoyProxy")["spec"]["routingType"] == "Service"


def chart() -> Path:
    """Return the chart of Envoy Gateway's controller."""
    path, version, _ = crds.MODULES["gateway.envoyproxy.io"]
    return module(path, version) / "charts" / "gateway-helm"


def unknown(values: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """Return the values that a chart does not know."""
    found = []
    for key, value in values.items():
        if key not in known:
            found.append(key)
        elif isinstance(value, dict) and known[key]:
            found += [f"{key}.{each}" for each in unknown(value, known[key])]
    return found


def test_the_chart_knows_every_value_that_it_is_given() -> None:
    known = yaml.safe_load((chart() / "values.tmpl.yaml").read_text(encoding="utf-8"))
    known["podDisruptionBudget"]["maxUnavailable"] = 1  # there in a comment
    assert unknown(read("ingress/envoy-gateway.yaml"), known) == []
    assert unknown({"deployment": {"replikas": 1}}, known) == ["deployment.replikas"]


def test_network_policies_select_the_pods_that_the_chart_makes() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in pick(objects("envoy"), "NetworkPolicy")}
    for name, file in {"controller": "envoy-gateway-deployment", "certgen": "certgen"}.items():
        ((key, value),) = policies[name]["podSelector"]["matchLabels"].items()
        assert f"{key}: {value}\n" in (chart() / "templates" / f"{file}.yaml").read_text(encoding="utf-8")


# Istio's own configuration ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the message MeshConfig of the Istio that is installed."""
    source = module("istio.io/api", f"v{crds.pinned('ISTIO_VERSION')}")
    compiled = tmp_path_factory.mktemp("istio") / "mesh.binpb"
    command = ["uv", "tool", "run", "--quiet", "--from", "grpcio-tools==1.85.0", "python", "-m", "grpc_tools.protoc"]
    options = [f"-I{source}", f"-I{source / 'common-protos'}", "--include_imports", f"--descriptor_set_out={compiled}"]
    done = subprocess.run(
        [sys.executable, "-m", *command, *options, "mesh/v1alpha1/config.proto"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("istio.mesh.v1alpha1.MeshConfig"))


@pytest.mark.parametrize("file", ["install", "ambient"])
def test_istio_knows_every_field_of_its_configuration(mesh_config: Any, file: str) -> None:
    json_format.ParseDict(read(f"mesh/istio/{file}.yaml")["spec"]["meshConfig"], mesh_config())
    with pytest.raises(json_format.ParseError, match="outboundTrafficPolizy"):
        json_format.ParseDict({"outboundTrafficPolizy": {}}, mesh_config())


def test_what_may_have_happened_is_not_sent_again_by_default() -> None:
    for file in ("install", "ambient"):
        retries = read(f"mesh/istio/{file}.yaml")["spec"]["meshConfig"]["defaultHttpRetryPolicy"]
        assert set(retries["retryOn"].split(",")) == {"connect-failure", "refused-stream"}


def test_both_ways_to_install_istio_have_the_same_door_and_configuration() -> None:
    sidecars, ambient = (read(f"mesh/istio/{file}.yaml")["spec"] for file in ("install", "ambient"))
    assert ambient["components"]["ingressGateways"] == sidecars["components"]["ingressGateways"]
    # Waypoints are pods that Istio makes.
    assert ambient["values"]["gateways"].pop("seccompProfile") == {"type": "RuntimeDefault"}
    assert (ambient["meshConfig"], ambient["values"]) == (sidecars["meshConfig"], sidecars["values"])
    # The profile `ambient` enables the CNI plugin by itself.
    assert (ambient["profile"], sidecars["components"]["cni"]) == ("ambient", {"enabled": True})


def test_linkerds_network_outside_is_where_it_holds_for_everybody() -> None:
    manifests = build(K8S / "mesh/linkerd")
    everywhere = read("mesh/linkerd/install.yaml")["egress"]["globalEgressNetworkNamespace"]
    spaces = {each["metadata"].get("namespace", each["metadata"]["name"]) for each in manifests}
    assert spaces == {everywhere}
    assert one(manifests, "EgressNetwork")["spec"]["trafficPolicy"] == "Deny"
