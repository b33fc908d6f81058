"""Every overlay of every kind with every mesh, built once."""

from __future__ import annotations

import functools

import pytest

from tests.conftest import KINDS, MESHES, Render
from tests.manifests.tools import Built, Manifest, build, overlays


@pytest.fixture(scope="session")
def built(render: Render) -> Built:
    """Return a function that builds the overlay of a kind with a mesh; its result is shared, so do not change it."""

    @functools.cache
    def built(kind: str, mesh: str, overlay: str) -> list[Manifest]:
        return build(render(service_kind=kind, mesh=mesh) / "k8s" / "overlays" / overlay)

    return built


CASES = [(kind, mesh, overlay) for kind in KINDS for mesh in MESHES for overlay in overlays(mesh)]


@pytest.fixture(params=CASES, ids="-".join)
def manifests(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Run the test for every overlay of every kind with every mesh."""
    return built(*request.param)
