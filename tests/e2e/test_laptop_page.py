"""The page from an empty laptop to a canary, as far as it goes without a cluster; `make e2e` types all of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from marty_lib.testing import free_ports

from tests.conftest import ROOT
from tests.e2e.laptop import Laptop, NoCluster, listening, sections, typing
from tests.e2e.pages import Block, clean_environment
from tests.manifests.tools import build
from tests.servers.requirement import missing
from tests.updates.history import IDENTITY, tagged_clone

WITH_MESH = ("istio", "linkerd")
HEADINGS = [
    "Tools",
    "Cluster",
    "Service",
    "Image",
    "Deploy",
    "Call",
    "Watch",
    "Canary",
    "Ten of a hundred",
    "Half",
    "All",
    "Promote",
    "Roll back",
    "Clean up",
]
SPLITS = {"Canary": (100, 0), "Ten of a hundred": (90, 10), "Half": (50, 50), "All": (0, 100)}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands at gh:org/marty: this working tree, committed."""
    return tagged_clone(tmp_path_factory.mktemp("pages") / "marty")


@pytest.fixture
def laptop(tmp_path: Path, checkout: Path) -> Callable[[str], NoCluster]:
    """Return a function that opens a terminal on a machine without a cluster, for somebody with this mesh."""
    if shutil.which("kubectl") is None:
        missing("kubectl is not on the PATH")
    environment = clean_environment() | IDENTITY
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def opened(mesh: str) -> NoCluster:
        return NoCluster(tmp_path, environment, typing(mesh, checkout, str(ROOT / "lib")), "")

    return opened


def splits(overlay: Path) -> set[tuple[int, int]]:
    """Return how the routes of an overlay share requests between the two releases."""
    rules = [
        rule.get("route") or rule["backendRefs"]
        for each in build(overlay)
        if each["kind"] in {"VirtualService", "HTTPRoute", "GRPCRoute"}
        for rule in [*each["spec"].get("http", ()), *each["spec"].get("rules", ())]
        if "route" in rule or "backendRefs" in rule
    ]
    return {(rule[0]["weight"], rule[1]["weight"]) for rule in rules if len(rule) == 2}


def images(overlay: Path) -> dict[str, str]:
    """Return the image of each Deployment of an overlay."""
    deployments = [each for each in build(overlay) if each["kind"] == "Deployment"]
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]["image"] for each in deployments
    }


@pytest.mark.slow
@pytest.mark.parametrize("mesh", WITH_MESH)
def test_what_the_page_tells_to_type_does_what_it_says(laptop: Callable[[str], NoCluster], mesh: str) -> None:
    terminal, service = laptop(mesh), Path()
    releases: dict[str, dict[str, str]] = {}
    for heading, commands in sections(mesh).items():
        for block in commands:
            terminal.type(block)
        service = terminal.folder / "order-service" / "k8s" / "overlays"
        if heading in SPLITS:
            assert splits(service / "canary") == {SPLITS[heading]}, heading
        if heading in {"Canary", "Promote", "Roll back"}:
            releases[heading] = images(service / "canary")

    old, new = (f"localhost:5001/order-service:{version}" for version in ("0.1.0", "0.2.0"))
    assert releases == {
        "Canary": {"order-service": old, "order-service-canary": new},
        "Promote": {"order-service": new, "order-service-canary": new},
        "Roll back": {"order-service": old, "order-service-canary": new},
    }
    routes = [each["metadata"]["name"] for each in build(service / "production") if each["kind"] == "HTTPRoute"]
    assert ("order-service-gateway" in routes) == (mesh == "linkerd")


@pytest.mark.parametrize("mesh", WITH_MESH)
def test_the_page_goes_from_tools_to_cleaning_up(mesh: str) -> None:
    assert list(sections(mesh)) == HEADINGS


def test_each_mesh_has_a_door_of_its_own() -> None:
    istio, linkerd = (sections(mesh)["Service"][-1].commands for mesh in WITH_MESH)

    assert "certificate.yaml" in istio
    assert "components/gateway" in linkerd
    assert sections("istio")["Service"][:-1] == sections("linkerd")["Service"][:-1]


def test_the_page_is_found() -> None:
    for page in ("README.md", "docs/cluster.md"):
        assert "laptop-to-canary.md)" in (ROOT / page).read_text(), page


@pytest.mark.slow
@pytest.mark.parametrize(
    "commands",
    [
        f"{ROOT}/k8s/cleanup.sh --nothing",
        f"{ROOT}/k8s/nothing.sh",
        "kubectl apply -f nothing.yaml",
        "kubectl delete -k nothing",
        "cd nothing",
        "make of-nobody",
        "rm -r service",
        "X=1 rm -r service",
    ],
)
def test_a_page_with_a_mistake_fails(laptop: Callable[[str], NoCluster], commands: str) -> None:
    with pytest.raises(AssertionError):
        laptop("istio").type(Block(f"# needs a cluster\n{commands}\n"))


# A machine with a cluster ---------------------------------------------------------------------------------------------

FORWARD = """#!/usr/bin/env python3
import http.server, sys
print("Forwarding", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Laptop]:
    """A terminal on a machine whose kubectl forwards ports and does nothing else."""
    (tmp_path / "kubectl").write_text(FORWARD)
    (tmp_path / "kubectl").chmod(0o755)
    environment = clean_environment() | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    opened = Laptop(tmp_path, environment, str, "")
    yield opened
    opened.stop()


def test_with_a_cluster_what_needs_one_is_typed(cluster: Laptop) -> None:
    cluster.type(Block("# needs a cluster\necho one\n", "one\n"))

    with pytest.raises(AssertionError):
        cluster.type(Block("# needs a cluster\nfalse\n"))


def test_a_port_is_forwarded_until_the_next_one(cluster: Laptop) -> None:
    first, second = free_ports(2)
    for port in (first, second):
        cluster.type(Block(f"# needs a cluster\nkubectl port-forward service/one {port}   # stays up\n"))
        assert listening(port)
    assert not listening(first)

    cluster.stop()
    assert not listening(second)


def test_a_port_that_cannot_be_forwarded_fails_the_page(cluster: Laptop) -> None:
    line = f"kubectl port-forward service/one {free_ports(1)[0]} nothing   # stays up"

    with pytest.raises(AssertionError, match="ended with"):
        cluster.type(Block(f"# needs a cluster\n{line}\n"))
