"""The cluster, its mesh, and services that are rendered from this checkout and pushed to its registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import ROOT
from tests.e2e.cluster.access import Cluster
from tests.e2e.cluster.browser import chromium
from tests.e2e.cluster.services import Service
from tests.e2e.pages import clean_environment
from tests.servers.requirement import missing
from tests.updates.history import IDENTITY, tagged_clone

REGISTRY = "localhost:5001"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster that MARTY_CLUSTER names."""
    for program in ("docker", "kubectl", "make"):
        if shutil.which(program) is None:
            missing(f"{program} is not on the PATH")
    return Cluster(os.environ["MARTY_CLUSTER"], tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def mesh(cluster: Cluster) -> str:
    """The mesh that it was made with."""
    return cluster.mesh()


@pytest.fixture(scope="session")
def environment(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of commands: this cluster, the tools of `.venv`, an owner with a name."""
    variables = clean_environment() | IDENTITY | {"KUBECONFIG": str(cluster.kubeconfig)}
    variables["GIT_CONFIG_GLOBAL"] = str(tmp_path_factory.mktemp("git") / "config")
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    return variables


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands at gh:org/marty: this working tree, committed."""
    return tagged_clone(tmp_path_factory.mktemp("template") / "marty")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout's library, for images."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT / "lib")]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def rendered(
    checkout: Path, wheel: Path, environment: dict[str, str], mesh: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Service]:
    """Return a function that renders a service for this cluster; answers are given by name."""

    def render(name: str, **answers: object) -> Service:
        folder = tmp_path_factory.mktemp("services") / name
        common = {"mesh": mesh, "image_registry": REGISTRY, "marty_lib_source": f"vendor/{wheel.name}"}
        return Service.render(folder, checkout, wheel, environment, **{**common, **answers})

    return render


@pytest.fixture
def page() -> Iterator[Page]:
    """An empty page of a browser."""
    with sync_playwright() as playwright, chromium(playwright) as opened:
        yield opened
