"""Rendered services behind the proxies that Istio would give them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.manifests.tools import Manifest, build
from tests.observability.rendered import Rendered
from tests.servers.server import free_server_ports

from .stack import Mesh
from .stub import Stub

KINDS = ("fastapi", "grpc", "hybrid")
Overlays = Callable[[str], Path]
Manifests = Callable[..., list[Manifest]]
Stubbed = tuple[Mesh, list[Stub]]
Live = tuple[Mesh, list[Rendered]]


@pytest.fixture(scope="session")
def overlays(render: Render) -> Overlays:
    """Return a function that renders a kind for ports that are free here; it returns the folder of its overlays."""
    names = ("http_port", "grpc_port", "ops_port")
    ports = dict(zip(names, free_server_ports(3), strict=True))
    return lambda kind: render(service_kind=kind, mesh="istio", **ports) / "k8s" / "overlays"


@pytest.fixture(scope="session")
def manifests(overlays: Overlays) -> Manifests:
    """Return a function that builds an overlay of a kind; its result is shared, so do not change it."""

    @functools.cache
    def manifests(kind: str, overlay: str = "service-mesh") -> list[Manifest]:
        return build(overlays(kind) / overlay)

    return manifests


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind that a mesh routes."""
    return str(request.param)


@pytest.fixture(scope="module")
def stubbed_pods(kind: str, manifests: Manifests) -> Iterator[Stubbed]:
    """A mesh of two pods in which nothing of a service runs, but what counts and fails."""
    with ExitStack() as stack:
        stubs = [Stub(), Stub()]
        for stub in stubs:
            stack.callback(stub.close)
        with closing(Mesh(manifests(kind), {"order-service": stubs})) as mesh:
            yield mesh, stubs


@pytest.fixture
def stubbed(stubbed_pods: Stubbed) -> Stubbed:
    """The same, with a caller that knows nothing of earlier failures, and stubs in which nothing has arrived."""
    mesh, stubs = stubbed_pods
    mesh.caller.restart()
    for stub in stubs:
        stub.reset()
    return mesh, stubs


@pytest.fixture(scope="module")
def live(kind: str, manifests: Manifests, installed: Render) -> Iterator[Live]:
    """A mesh of two pods in each of which the rendered service runs."""
    with ExitStack() as stack:
        folder = installed(service_kind=kind, mesh="istio")
        services = [Rendered(folder, free_server_ports(3)) for _ in range(2)]
        for service in services:
            stack.callback(service.close)
        for service in services:
            service.wait_ready(60)
        with closing(Mesh(manifests(kind), {"order-service": services})) as mesh:
            yield mesh, services
