"""The manifests against the running service: ports, probe paths and environment names are those it serves and reads."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from marty_lib.testing import free_ports, status

from tests.conftest import Render
from tests.manifests.tools import Manifest, build, environment, one, overlays, pod_of, ports, service_container

pytestmark = pytest.mark.slow


def group(kind: str) -> pytest.MarkDecorator:
    """Keep the tests of a kind on one worker, which installs it once."""
    return pytest.mark.xdist_group(f"deployed-{kind}")


CASES = [
    pytest.param(kind, mesh, overlay, marks=group(kind))
    for kind, mesh, names in (
        ("fastapi", "istio", overlays("istio")),
        ("grpc", "none", overlays("none")),
        ("hybrid", "linkerd", overlays("linkerd")),
        ("database", "none", ["production"]),
        ("minimal", "none", overlays("none")),
    )
    for overlay in names
]


class Deployed:
    """An overlay, and its service running with the environment that the overlay gives it."""

    def __init__(self, service: Path, overlay: str, **variables: str) -> None:
        self.manifests = build(service / "k8s" / "overlays" / overlay)
        self.python = service / ".venv" / "bin" / "python"
        self.variables = environment(self.manifests) | variables
        self.process = subprocess.Popen(
            [str(self.python), "-m", "order_service"],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.ports = ports(self.manifests)

    def wait_ready(self) -> None:
        """Return once the readiness probe passes."""
        ends = time.monotonic() + 20
        while status(self.url(self.probe("readinessProbe"))) != 200:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < ends
            time.sleep(0.05)

    def probe(self, name: str) -> Manifest:
        """Return the HTTP part of a probe."""
        found: Manifest = service_container(self.manifests)[name]["httpGet"]
        return found

    def url(self, probe: Manifest) -> str:
        """Return where a probe asks."""
        return f"http://127.0.0.1:{self.ports[probe['port']]}{probe['path']}"

    def output(self) -> str:
        """Return what the process printed, once it has ended."""
        return self.process.communicate(timeout=20)[0].decode()


Deploy = Callable[..., Deployed]


@pytest.fixture(scope="session")
def with_free_ports(installed: Render) -> Callable[[str, str], Path]:
    """Return a function that renders and installs a kind whose answers name ports that are free here."""
    chosen = dict(zip(("http_port", "grpc_port", "ops_port"), free_ports(3), strict=True))
    return lambda kind, mesh: installed(service_kind=kind, mesh=mesh, **chosen)


@pytest.fixture
def deploy(with_free_ports: Callable[[str, str], Path]) -> Iterator[Deploy]:
    """Return a function that runs an overlay's service; it is ended after the test."""
    with contextlib.ExitStack() as stack:

        def deploy(kind: str, mesh: str, overlay: str, **variables: str) -> Deployed:
            deployed = Deployed(with_free_ports(kind, mesh), overlay, **variables)
            stack.callback(deployed.process.communicate)
            stack.callback(deployed.process.kill)
            return deployed

        yield deploy


def health_over_grpc(port: int) -> int:
    """Return what grpc.health.v1 says."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status)


@pytest.mark.parametrize(("kind", "mesh", "overlay"), CASES, ids=lambda value: value)
def test_what_the_manifests_name_is_what_the_service_serves_and_reads(
    deploy: Deploy, kind: str, mesh: str, overlay: str
) -> None:
    # As rendered, production refuses a store in memory: this is the documented trial.
    variables = {"ALLOW_EMBEDDED": "true"}
    if overlay != "production":
        # That the grace period exceeds the drain in each overlay, test_references shows without waiting for it.
        variables["DRAIN_DELAY"] = "0"
    deployed = deploy(kind, mesh, overlay, **variables)
    deployed.wait_ready()

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert status(deployed.url(deployed.probe(probe))) == 200

    for port in one(deployed.manifests, "Service")["spec"]["ports"]:
        number = deployed.ports[port["targetPort"]]
        if port["appProtocol"] == "grpc":
            assert health_over_grpc(number) == health_pb2.HealthCheckResponse.SERVING
        else:
            assert status(f"http://127.0.0.1:{number}/nothing-here") == 404

    scrape = pod_of(deployed.manifests)["metadata"]["annotations"]
    metrics = f"http://127.0.0.1:{scrape['prometheus.io/port']}{scrape['prometheus.io/path']}"
    assert status(metrics) == 200

    reads = subprocess.run(
        [str(deployed.python), "-m", "order_service", "settings"], capture_output=True, text=True, check=True
    ).stdout
    assert set(environment(deployed.manifests)) <= set(re.findall(r"^\| `([A-Z_]+)`", reads, re.MULTILINE))

    deployed.process.terminate()
    grace = pod_of(deployed.manifests)["spec"]["terminationGracePeriodSeconds"]
    assert deployed.process.wait(grace) == 0


@group("fastapi")
def test_the_production_overlay_refuses_a_store_that_is_lost_with_the_process(deploy: Deploy) -> None:
    deployed = deploy("fastapi", "istio", "production")
    assert deployed.process.wait(20) == 1
    assert "STORAGE_BACKEND" in deployed.output()


@group("minimal")
def test_the_production_overlay_of_a_kind_that_keeps_nothing_starts(deploy: Deploy) -> None:
    deploy("minimal", "none", "production").wait_ready()
