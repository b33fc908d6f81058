"""A mesh on this machine: pods of which each is a proxy before a process, a caller with a proxy, and the gateway."""

from __future__ import annotations

import functools
import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from tests.manifests.tools import Manifest, pick
from tests.servers.server import Server

from .certificates import Authority
from .envoy import CONFIGURATION, Envoy
from .istiod import Json, ask
from .objects import Addresses, Pod, gateway_pod, platform, pod_of, seen_by_istiod, slice_of, tls_secret, with_address
from .proxy import bootstrap, identity, secret

DOMAIN = "shop.example.com"
HOST = f"order-service.{DOMAIN}"
SHARED_SECRET = "shared-gateway-tls"  # noqa: S105 - its name
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


class Mesh:
    """A mesh; close it.

    Args:
        manifests: a service's overlay.
        applications: what runs in its pods, by the name of their Deployment.

    Attributes:
        answer: what Istio makes of the manifests.
        authority: who issues certificates.
        pods: the service's pods.
        entrance: the gateway's pod.
        proxies: the proxies of the pods, then the caller's and the gateway's.
    """

    def __init__(self, manifests: list[Manifest], applications: Mapping[str, Sequence[Application]]) -> None:
        self.authority = Authority()
        self._free = Addresses()
        self._services: dict[str, str] = {}
        self._local: dict[str, dict[int, int]] = {}
        self.pods: list[Pod] = []
        deployments = {each["metadata"]["name"]: each for each in pick(manifests, "Deployment")}
        for name, processes in applications.items():
            for number, process in enumerate(processes, 1):
                self._add(pod_of(deployments[name], number, self._free()), process)
        self.namespace = self.pods[0].namespace
        self.entrance = gateway_pod(self._free())
        self._caller = Pod("caller", self.namespace, {"app": "caller"}, self._free(), {}, "caller")
        self._secrets = {pod.key: identity(self.authority, pod) for pod in self._everybody}
        self._shared = self.authority.host(f"*.{DOMAIN}")
        self._secrets[self.entrance.key] += [
            secret("kubernetes://order-service-tls", *self.authority.host(HOST)),
            secret(f"kubernetes-gateway://{self.entrance.namespace}/{SHARED_SECRET}", *self._shared),
        ]
        self._learn(manifests)
        self.proxies: list[Server] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _add(self, pod: Pod, process: Application) -> None:
        self.pods.append(pod)
        self._local[pod.key] = {number: getattr(process, f"{name}_port") for name, number in pod.ports.items()}

    @property
    def _everybody(self) -> list[Pod]:
        return [*self.pods, self._caller, self.entrance]

    def _learn(self, manifests: list[Manifest]) -> None:
        objects = seen_by_istiod([*manifests, *platform()])
        services = [with_address(each, self._address_of(each["metadata"])) for each in pick(objects, "Service")]
        others = [each for each in objects if each["kind"] != "Service"]
        slices = [slice_of(each, self._everybody) for each in services]
        certificate = tls_secret(self.entrance.namespace, SHARED_SECRET, *self._shared)
        self.answer = ask([*others, *services, *slices, certificate, *(pod.manifest() for pod in self._everybody)])
        self._inside = {
            each["spec"]["clusterIP"]: {port["port"] for port in each["spec"]["ports"]}
            for each in services
            if each["metadata"]["namespace"] == self.namespace
        }

    def _address_of(self, metadata: Manifest) -> str:
        return self._services.setdefault(f"{metadata['namespace']}/{metadata['name']}", self._free())

    def _start(self) -> None:
        for pod in self._everybody:
            self.proxies.append(Server(Envoy(functools.partial(self._configuration, pod))))
            self.proxies[-1].start()

    def _configuration(self, pod: Pod, ports: list[int]) -> Json:
        return bootstrap(
            pod,
            self.answer.proxies[pod.key],
            admin=ports[0],
            applications=self._local.get(pod.key, {}),
            services=self._inside if pod is self._caller else {},
            secrets=self._secrets[pod.key],
        )

    def change(self, manifests: list[Manifest]) -> None:
        """Have other manifests hold for the same pods."""
        self._learn(manifests)
        for proxy in self.proxies:
            file = proxy.folder / CONFIGURATION
            before = file.read_text()
            proxy.software.prepare(proxy.folder, proxy.ports)
            if file.read_text() != before:
                proxy.restart()

    def close(self) -> None:
        """End all proxies."""
        for proxy in self.proxies:
            proxy.close()

    @property
    def caller(self) -> Server:
        """The proxy of the one who calls."""
        return self.proxies[-2]

    @property
    def service(self) -> str:
        """The Service's address."""
        return self._services[f"{self.namespace}/order-service"]

    @property
    def ports(self) -> dict[str, int]:
        """The service's ports, by name."""
        return self.pods[0].ports

    @property
    def doors(self) -> list[str]:
        """The names of the ports that clients call."""
        return [name for name in self.ports if name != "ops"]

    def call(self, method: str, path: str, body: str | None = None, *, port: str = "http", **headers: str) -> Reply:
        """Call the service over HTTP, as a pod of its namespace does."""
        connection = http.client.HTTPConnection(self.service, self.ports[port], timeout=SECONDS)
        return exchange(connection, method, path, body, {"host": "order-service", **headers})

    def call_from_outside(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
        """Call the service over HTTPS, as somebody does who is not in the mesh."""
        return exchange(self.connection_from_outside(), method, path, body, {"host": HOST, **headers})

    def connection_from_outside(self, host: str = HOST) -> http.client.HTTPConnection:
        """Return a connection to the gateway, as somebody has it who is not in the mesh."""
        context = ssl.create_default_context(cadata=self.authority.pem)
        return Encrypted(self.entrance.address, 8443, context, host)

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

    def channel_from_outside(self, host: str = HOST) -> grpc.Channel:
        """Return a channel to the service, as somebody has it who is not in the mesh."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem.encode())
        options = [("grpc.ssl_target_name_override", host), ("grpc.enable_retries", 0)]
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
