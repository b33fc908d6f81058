"""What a cluster would add to manifests before istiod sees them: pods with addresses, and what is behind a Service."""

from __future__ import annotations

import base64
import functools
import random
from dataclasses import dataclass
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.manifests.tools import Manifest, build, custom_schemas, group_of, pick

INSTALLATION = ROOT / "k8s/mesh/istio/install.yaml"
INGRESS = "istio-ingress"
OWN = ("Namespace", "Service", "IstioOperator")


class Addresses:
    """Addresses of this machine's loopback, one for each pod and Service: their ports are those of the manifests."""

    def __init__(self) -> None:
        self._network = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}"
        self._next = 0

    def __call__(self) -> str:
        self._next += 1
        return f"{self._network}.{self._next}"


@dataclass(frozen=True)
class Pod:
    """A pod in the mesh.

    Attributes:
        name: its name, like that of its proxy.
        namespace: where it is.
        labels: what Services and policies select it by.
        address: its IP address.
        ports: those of its container, by name.
        account: the service account, which is its identity in the mesh.
    """

    name: str
    namespace: str
    labels: dict[str, str]
    address: str
    ports: dict[str, int]
    account: str

    @property
    def key(self) -> str:
        """Its name in the answer of Istio."""
        return f"{self.namespace}/{self.name}"

    def manifest(self) -> Manifest:
        """Return it as the API server would show it, a proxy injected."""
        ports = [{"name": name, "containerPort": number} for name, number in self.ports.items()]
        labels = self.labels | {"security.istio.io/tlsMode": "istio"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {
                "serviceAccountName": self.account,
                "containers": [{"name": "service", "image": "service", "ports": ports}],
            },
            "status": {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]},
        }


def pod_of(deployment: Manifest, number: int, address: str) -> Pod:
    """Return a pod that a Deployment would make."""
    meta, template = deployment["metadata"], deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    return Pod(
        name=f"{meta['name']}-{number}",
        namespace=meta["namespace"],
        labels=template["metadata"]["labels"],
        address=address,
        ports={port["name"]: port["containerPort"] for port in container["ports"]},
        account=template["spec"]["serviceAccountName"],
    )


def with_address(service: Manifest, address: str) -> Manifest:
    """Return a Service with the address that a cluster would give it."""
    return service | {"spec": service["spec"] | {"clusterIP": address}}


def slice_of(service: Manifest, pods: list[Pod]) -> Manifest:
    """Return the EndpointSlice of a Service: the pods that it selects, and the ports that they have."""
    meta, spec = service["metadata"], service["spec"]
    chosen = [
        pod for pod in pods if pod.namespace == meta["namespace"] and spec["selector"].items() <= pod.labels.items()
    ]
    # Without pods nobody knows the numbers of ports that have names.
    numbers, ports = (chosen[0].ports, spec["ports"]) if chosen else ({}, [])
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": {"kubernetes.io/service-name": meta["name"]},
        },
        "ports": [
            {"name": port["name"], "port": numbers.get(port["targetPort"], port["targetPort"])} for port in ports
        ],
        "endpoints": [
            {
                "addresses": [pod.address],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace},
            }
            for pod in chosen
        ],
    }


def tls_secret(namespace: str, name: str, certificate: str, key: str) -> Manifest:
    """Return the Secret that cert-manager would make."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "data": {
            "tls.crt": base64.b64encode(certificate.encode()).decode(),
            "tls.key": base64.b64encode(key.encode()).decode(),
        },
    }


@functools.cache
def platform() -> list[Manifest]:
    """Return what `k8s/` says of the mesh: settings, rules, the shared Gateway, its Service and the collector's."""
    installation = yaml.safe_load(INSTALLATION.read_text())
    [gateway] = installation["spec"]["components"]["ingressGateways"]
    ports = [
        {name: port[name] for name in ("name", "port", "targetPort")} for port in gateway["k8s"]["service"]["ports"]
    ]
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": gateway["name"], "namespace": gateway["namespace"]},
        "spec": {"selector": {"istio": "ingressgateway"}, "ports": ports},
    }
    collector = yaml.safe_load((ROOT / "k8s/observability/collector/service.yaml").read_text())
    collector["metadata"]["namespace"] = "monitoring"
    # Istio makes its class itself.
    kind: Manifest = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "istio"},
        "spec": {"controllerName": "istio.io/gateway-controller"},
    }
    return [installation, service, collector, kind, *build(ROOT / "k8s/mesh/istio"), *build(ROOT / "k8s/ingress/istio")]


def seen_by_istiod(manifests: list[Manifest]) -> list[Manifest]:
    """Return the objects that istiod watches, as it sees them."""
    own = [each for each in manifests if each["kind"] in OWN or "istio.io/" in each["apiVersion"]]
    return own + [
        defaulted(each, custom_schemas()[each["apiVersion"], each["kind"]].schema)
        for each in manifests
        if group_of(each) == "gateway.networking.k8s.io"
    ]


def defaulted(value: Any, schema: Any) -> Any:
    """Return a value with what the API server writes where nothing is said."""
    if isinstance(value, list):
        return [defaulted(each, schema.get("items", {})) for each in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    unsaid = {name: part["default"] for name, part in known.items() if name not in value and "default" in part}
    return {name: defaulted(part, known.get(name, {})) for name, part in {**unsaid, **value}.items()}


def gateway_pod(address: str) -> Pod:
    """Return the pod of the ingress gateway."""
    [service] = [each for each in pick(platform(), "Service") if each["metadata"]["namespace"] == INGRESS]
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    return Pod("gateway", INGRESS, service["spec"]["selector"], address, ports, "istio-ingressgateway-service-account")
