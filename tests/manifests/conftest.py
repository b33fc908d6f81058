"""Every overlay of every kind with every mesh, built once."""

from __future__ import annotations

import functools
import shutil

import pytest

from tests.conftest import Render
from tests.manifests.tools import Built, Composed, Manifest, build, cases, compose, release


@pytest.fixture(scope="session")
def built(render: Render) -> Built:
    """Return a function that builds the overlay of a kind with a mesh; its result is shared, so do not change it."""

    @functools.cache
    def built(kind: str, mesh: str, overlay: str) -> list[Manifest]:
        folder, _, part = overlay.partition(" ")
        if part:
            return release(built(kind, mesh, folder), part)
        return build(render(service_kind=kind, mesh=mesh) / "k8s" / "overlays" / folder)

    return built


@pytest.fixture(scope="session")
def composed(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    """Return a function that builds an overlay with other components than those it is rendered with."""

    @functools.cache
    def composed(kind: str, mesh: str, overlay: str, *components: str) -> list[Manifest]:
        folder = tmp_path_factory.mktemp("composed") / "k8s"
        shutil.copytree(render(service_kind=kind, mesh=mesh) / "k8s", folder)
        compose(folder, mesh, *components)
        return build(folder / "overlays" / overlay)

    return composed


@pytest.fixture(params=cases(), ids="-".join)
def manifests(request: pytest.FixtureRequest, built: Built) -> list[Manifest]:
    """Run the test for every release in every overlay of every kind with every mesh."""
    return built(*request.param)
