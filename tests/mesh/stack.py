"""A mesh on this machine: pods of which each is a proxy before a process, a caller with a proxy, and the gateway."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from tests.manifests.tools import Manifest, pick
from tests.servers.server import Server

from .certificates import Authority
from .envoy import Envoy
from .istiod import Answer, ask
from .objects import Addresses, Pod, gateway_pod, platform, pod_of, seen_by_istiod, slice_of, with_address
from .proxy import bootstrap, identity, secret

HOST = "order-service.shop.example.com"
SECONDS = 30


class Application(Protocol):
    """What runs in a pod."""

    @property
    def ops_port(self) -> int: ...
    @property
    def http_port(self) -> int: ...
    @property
    def grpc_port(self) -> int: ...


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Mesh:
    """A mesh.

    Attributes:
        answer: what Istio makes of the manifests.
        service: the Service's address.
        ports: the Service's ports, by name.
        authority: who issues certificates.
        pods: the service's pods.
        sidecars: the proxies of the pods, in their order.
        caller: the proxy of the one who calls.
        gateway: the proxy of those outside.
        entrance: the pod of the gateway.
    """

    answer: Answer
    service: str
    ports: dict[str, int]
    authority: Authority
    pods: list[Pod]
    entrance: Pod
    sidecars: list[Server] = field(default_factory=list)
    caller: Server = field(init=False)
    gateway: Server = field(init=False)

    @property
    def proxies(self) -> list[Server]:
        """All proxies."""
        return [*self.sidecars, self.caller, self.gateway]

    def call(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
        """Call the service over HTTP, as a pod of its namespace does."""
        with_names = {"host": "order-service", **headers}
        return exchange(
            http.client.HTTPConnection(self.service, self.ports["http"], timeout=SECONDS),
            method,
            path,
            body,
            with_names,
        )

    def call_from_outside(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
        """Call the service over HTTPS, as somebody does who is not in the mesh."""
        context = ssl.create_default_context(cadata=self.authority.pem)
        connection = Encrypted(self.entrance.address, 8443, context, HOST)
        return exchange(connection, method, path, body, {"host": HOST, **headers})

    def call_gateway(self, method: str, path: str) -> Reply:
        """Call the gateway without TLS."""
        connection = http.client.HTTPConnection(self.entrance.address, 8080, timeout=SECONDS)
        return exchange(connection, method, path, None, {"host": HOST})

    def call_pod(self, port: int, method: str, path: str, context: ssl.SSLContext | None) -> Reply:
        """Call a port of the first pod past the caller's proxy, with a certificate or without."""
        at = self.pods[0].address
        connection = Encrypted(at, port, context) if context else http.client.HTTPConnection(at, port, timeout=SECONDS)
        return exchange(connection, method, path, None, {"host": "order-service"})

    def channel(self) -> grpc.Channel:
        """Return a channel to the service, as a pod of its namespace has it."""
        options = [("grpc.default_authority", "order-service"), ("grpc.enable_retries", 0)]
        return grpc.insecure_channel(f"{self.service}:{self.ports['grpc']}", options)

    def channel_from_outside(self) -> grpc.Channel:
        """Return a channel to the service, as somebody has it who is not in the mesh."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem.encode())
        options = [("grpc.ssl_target_name_override", HOST), ("grpc.enable_retries", 0)]
        return grpc.secure_channel(f"{self.entrance.address}:8443", credentials, options)


class Encrypted(http.client.HTTPConnection):
    """A connection in TLS to an address.

    Args:
        host: the address.
        port: its port.
        context: whom to trust, and who to be.
        name: the host whose certificate is expected there; empty for an identity of the mesh.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str = "") -> None:
        super().__init__(host, port, timeout=SECONDS)
        self._tls, self._name = context, name or None

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None, headers: Mapping[str, str]
) -> Reply:
    """Send one request over a connection of its own."""
    try:
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def start(stack: ExitStack, manifests: list[Manifest], applications: Mapping[str, Sequence[Application]]) -> Mesh:
    """Start the proxies that stand before these applications, by the name of their Deployment; the stack ends them."""
    addresses, authority = Addresses(), Authority()
    deployments = {each["metadata"]["name"]: each for each in pick(manifests, "Deployment")}
    pods, running = [], []
    for name, processes in applications.items():
        for number, process in enumerate(processes, 1):
            pods.append(pod_of(deployments[name], number, addresses()))
            running.append(process)
    entrance = gateway_pod(addresses())
    namespace = pods[0].namespace
    caller = Pod("caller", namespace, {"app": "caller"}, addresses(), {}, "caller")
    objects = [
        with_address(each, addresses()) if each["kind"] == "Service" else each
        for each in seen_by_istiod([*manifests, *platform()])
    ]
    everybody = [*pods, caller, entrance]
    services = pick(objects, "Service")
    slices = [slice_of(each, everybody) for each in services]
    answer = ask([*objects, *slices, *(pod.manifest() for pod in everybody)])
    inside = {
        each["spec"]["clusterIP"]: {port["port"] for port in each["spec"]["ports"]}
        for each in services
        if each["metadata"]["namespace"] == namespace
    }
    service = next(each for each in services if each["metadata"]["name"] == "order-service")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    mesh = Mesh(answer, service["spec"]["clusterIP"], ports, authority, pods, entrance)

    def proxy(pod: Pod, process: Application | None = None, **more: Any) -> Server:
        local = {number: getattr(process, f"{name}_port") for name, number in pod.ports.items()} if process else {}
        secrets = identity(authority, pod) + more.pop("secrets", [])
        server = Server(
            Envoy(
                lambda admin: bootstrap(
                    pod, answer.proxies[pod.key], admin=admin, applications=local, secrets=secrets, **more
                )
            )
        )
        stack.callback(server.close)
        return server.start()

    mesh.sidecars = [proxy(pod, process, services={}) for pod, process in zip(pods, running, strict=True)]
    mesh.caller = proxy(caller, services=inside)
    public = secret("kubernetes://order-service-tls", *authority.host(HOST))
    mesh.gateway = proxy(entrance, services={}, secrets=[public])
    return mesh
