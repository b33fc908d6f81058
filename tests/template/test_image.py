"""The image of each kind of service: built by `make image`, then run as strictly as production runs it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from extensions.kinds import KINDS
from tests.conftest import ROOT, Render
from tests.servers.containers import BASE_IMAGE, PYTHON_VERSION, Engine, container_engine, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("image")]

ORDER_KINDS = [kind for kind, has in KINDS.items() if {"http", "orders"} <= has]
# What each domain answers to a GET without more ado.
READABLE = {"orders": "/v1/orders", "catalogue": "/v1/products", "identity": "/jwks"}
DESCRIPTION = 'Bob\'s "<A&B>" {{ x }} {% y %} # $HOME ${HOME} \\n: - é 你好 🚀'
REVISION = "0123456789abcdef"
STRICT = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
DEADLINE = 30.0
# grpcio, SQLAlchemy, asyncpg, aiokafka and cryptography are large.
MORE_MEGABYTES = {"grpc": 15, "database": 25, "broker": 10, "identity": 35}
ORDER = json.dumps({"customer": "ada", "item": "engine", "quantity": 1}).encode()


@dataclass(frozen=True)
class Image:
    """A built image and the engine that has it."""

    engine: Engine
    name: str
    has: frozenset[str]

    def inspect(self) -> dict[str, Any]:
        """Return what the engine knows of it."""
        return _inspect(self.engine, self.name)


@dataclass(frozen=True)
class Container:
    """A running service and the ports on which it is reached."""

    engine: Engine
    id: str
    http_port: int
    ops_port: int

    def python(self, code: str, *options: str) -> str:
        """Run code in the container; return what it printed."""
        return self.engine("exec", *options, self.id, "python", "-c", code).stdout.strip()

    def ready(self) -> bool:
        """Say whether a balancer would send requests."""
        return status(self.ops_port, "/health/ready") == 200

    def stop(self) -> int:
        """Stop it as an orchestrator does; return its exit code."""
        self.engine("stop", "--time=30", self.id)
        exit_code: int = _inspect(self.engine, self.id)["State"]["ExitCode"]
        return exit_code


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Return the container engine of this machine."""
    with container_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of the library in this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT / "lib"))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=KINDS)
def image(request: pytest.FixtureRequest, engine: Engine, wheel: Path, render: Render) -> Image:
    """Return the image of a kind, built once."""
    service = render(
        service_kind=request.param,
        service_description=DESCRIPTION,
        python_version=PYTHON_VERSION,
        marty_lib_source=f"vendor/{wheel.name}",
    )
    (service / "vendor").mkdir(exist_ok=True)
    shutil.copy(wheel, service / "vendor")
    make_image(engine, service, name=f"marty.test/{request.param}")
    return Image(engine, f"marty.test/{request.param}:test", has=KINDS[request.param])


def make_image(engine: Engine, service: Path, name: str) -> None:
    """Build the image by the target that people and workflows call."""
    flags = [*engine.build_flags, f"--build-arg=REVISION={REVISION}"]
    variables = [f"CONTAINER={engine.builder}", f"BUILD_FLAGS={' '.join(flags)}", f"IMAGE={name}", "TAG=test"]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{engine.environment['PATH']}"
    run("make", "-C", str(service), "image", *variables, environment={**engine.environment, "PATH": tools})


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[Container]:
    """Return a running container, for tests that do not stop it."""
    with started(image) as container:
        yield container


@contextmanager
def started(image: Image, **environment: str) -> Iterator[Container]:
    """Run the image with nothing writable and no privilege, until it is ready; remove it afterwards."""
    http_port, grpc_port, ops_port = free_ports(3)
    settings = {"HTTP_PORT": http_port, "GRPC_PORT": grpc_port, "OPS_PORT": ops_port, **environment}
    options = [*STRICT, *image.engine.network([http_port, grpc_port, ops_port])]
    options += ["--read-only-tmpfs=false"] if image.engine.runner == "podman" else []
    options += [f"--env={name}={value}" for name, value in settings.items()]
    container_id = image.engine("run", "--detach", *options, image.name).stdout.strip()
    try:
        container = Container(image.engine, container_id, http_port, ops_port)
        wait_until(container.ready, lambda: image.engine("logs", container_id, check=False).stderr)
        yield container
    finally:
        image.engine("rm", "--force", container_id)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(condition: Callable[[], bool], why: Callable[[], str] = lambda: "") -> None:
    """Return as soon as the condition holds; fail at the deadline."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends, f"not within {DEADLINE} s: {why()}"
        time.sleep(0.01)


def status(port: int, path: str) -> int:
    """Return the status of a GET on a connection of its own, or 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _inspect(engine: Engine, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(engine("inspect", name).stdout)
    return found[0]


def health_check(image: Image) -> list[str]:
    """Return the command of the image's HEALTHCHECK."""
    found = image.inspect()
    check = found.get("Healthcheck") or found["Config"]["Healthcheck"]  # podman, docker
    assert check["Test"][0] == "CMD"
    command: list[str] = check["Test"][1:]
    return command


# What is in the image -----------------------------------------------------------------------------------------


def test_any_description_arrives_unchanged_in_the_label(image: Image) -> None:
    labels = image.inspect()["Config"]["Labels"]
    assert labels["org.opencontainers.image.description"] == DESCRIPTION
    assert labels["org.opencontainers.image.authors"] == "Ada Example <ada@example.com>"
    assert labels["org.opencontainers.image.revision"] == REVISION


def test_it_holds_the_virtual_environment_and_nothing_else(container: Container) -> None:
    assert container.python("import os; print(os.listdir('/app'))") == "['.venv']"
    left = ["/etc/pip.conf", "/etc/uv/uv.toml", "/root/.cache", "/app/.venv/bin/uv"]
    looked = container.python(f"import os; print([path for path in {left} if os.path.exists(path)])", "--user=0")
    assert looked == "[]"


def test_its_modules_are_compiled(container: Container) -> None:
    code = """if True:
        import importlib.util, pathlib, order_service
        files = pathlib.Path(order_service.__file__).parent.rglob("*.py")
        print([str(f) for f in files if not pathlib.Path(importlib.util.cache_from_source(f)).exists()])"""
    assert container.python(code) == "[]"


def test_it_adds_to_the_base_no_more_than_its_parts_weigh(
    image: Image, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    size, base = (_inspect(image.engine, name)["Size"] for name in (image.name, BASE_IMAGE))
    record_property("image_bytes", size)
    with capsys.disabled():
        print(f"\n{image.name}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB of it above the base")
    assert size - base < (80 + sum(MORE_MEGABYTES.get(feature, 0) for feature in image.has)) * 1e6


# How it runs --------------------------------------------------------------------------------------------------


def test_it_is_not_root_and_can_write_nowhere(container: Container) -> None:
    code = """if True:
        import os, tempfile
        def writable(folder):
            try:
                return bool(tempfile.TemporaryFile(dir=folder))
            except OSError:
                return False
        print(os.getuid(), [f for f in ("/", "/app", "/app/.venv", "/tmp", "/var/tmp") if writable(f)])"""
    assert container.python(code) == "10001 []"


def test_it_answers_probes_and_requests(image: Image, container: Container) -> None:
    probes = [status(container.ops_port, f"/health/{probe}") for probe in ("live", "ready", "startup")]
    assert probes == [200, 200, 200]
    path = next((path for domain, path in READABLE.items() if domain in image.has), "/")
    assert status(container.http_port, path) == (200 if "http" in image.has else 0)


def test_its_health_check_passes_while_it_lives(image: Image, container: Container) -> None:
    image.engine("exec", container.id, *health_check(image))


def test_its_health_check_fails_where_nobody_answers(image: Image, container: Container) -> None:
    nobody = f"--env=OPS_PORT={free_ports(1)[0]}"
    assert image.engine("exec", nobody, container.id, *health_check(image), check=False).returncode == 1


def test_sigterm_ends_it_with_0(image: Image) -> None:
    with started(image) as container:
        assert container.stop() == 0


@pytest.mark.parametrize("image", ORDER_KINDS, indirect=True)
def test_stopping_it_loses_no_request(image: Image) -> None:
    with started(image, DRAIN_DELAY="3") as container, upload(container) as finish, ThreadPoolExecutor(1) as thread:
        with traffic(container) as answers:
            wait_until(lambda: len(answers) >= 50)
            exit_code = thread.submit(container.stop)
            wait_until(lambda: not container.ready())
            time.sleep(1.0)  # until a balancer has learned of it
        wait_until(lambda: status(container.http_port, "/v1/orders") == 0)
        assert finish() == 201
        assert exit_code.result() == 0
        assert set(answers) == {200}


@contextmanager
def traffic(container: Container) -> Iterator[list[int]]:
    """Keep requests flowing; yield the list to which each one's status is added."""
    answers: list[int] = []
    removed = threading.Event()

    def send() -> None:
        while not removed.is_set():
            answers.append(status(container.http_port, "/v1/orders"))

    with ThreadPoolExecutor(2) as clients:
        sent = [clients.submit(send) for _ in range(2)]
        try:
            yield answers
        finally:
            removed.set()
    assert [client.result() for client in sent] == [None, None]


@contextmanager
def upload(container: Container) -> Iterator[Callable[[], int]]:
    """Begin a request; yield a function that sends the rest over about a second and returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", container.http_port, timeout=DEADLINE)
    connection.putrequest("POST", "/v1/orders")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(len(ORDER)))
    connection.endheaders(ORDER[:10])

    def finish() -> int:
        for byte in ORDER[10:]:
            connection.send(bytes([byte]))
            time.sleep(0.02)
        return connection.getresponse().status

    try:
        yield finish
    finally:
        connection.close()
