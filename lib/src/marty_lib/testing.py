"""A pytest plugin for services: a clock that waits for nobody, servers that misbehave, the service as a process.

Fixtures: `clock`, `free_port`, `faulty_server`, `issuer`, `own_database`, `service_process`. It is found by pytest
where `marty-lib` is installed, and imports nothing of marty until a fixture is used.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import IO, TYPE_CHECKING

import pytest

from marty_lib._db_fixtures import database_template as database_template
from marty_lib._db_fixtures import migrations as migrations
from marty_lib._db_fixtures import own_database as own_database
from marty_lib._faulty_server import Fault as Fault
from marty_lib._faulty_server import FaultyServer as FaultyServer

if TYPE_CHECKING:
    from grpc.aio import Channel
    from httpx2 import AsyncClient

    from marty_lib._app import App
    from marty_lib._issuer import Issuer

# The proxy of the machine is not for its own addresses.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Clock:
    """A clock for what takes `clock=time.monotonic`: it moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


class ServiceProcess:
    """The service as the process that production runs, on free ports of 127.0.0.1.

    Args:
        module: what `python -m` runs.
        environment: further variables; an empty string takes one away.
    """

    def __init__(self, module: str, **environment: str) -> None:
        self.ops_port, self.http_port, self.grpc_port = free_ports(3)
        self.ops = f"http://127.0.0.1:{self.ops_port}"
        self.http = f"http://127.0.0.1:{self.http_port}"
        self.grpc = f"127.0.0.1:{self.grpc_port}"
        variables = os.environ | {
            "OPS_PORT": str(self.ops_port),
            "HTTP_PORT": str(self.http_port),
            "GRPC_PORT": str(self.grpc_port),
            "LOG_FORMAT": "json",
        }
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={name: value for name, value in (variables | environment).items() if value},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait_ready(self, timeout: float = 60.0) -> ServiceProcess:
        """Return the process once it is ready.

        Raises:
            RuntimeError: with its output, where it ends or is not ready in `timeout` seconds.
        """
        ends = time.monotonic() + timeout
        while time.monotonic() < ends and self.process.poll() is None:
            if status(f"{self.ops}/health/ready") == 200:
                return self
            time.sleep(0.02)
        raise RuntimeError(f"the service did not become ready (exit code {self.process.poll()}):\n{self.output()}")

    def terminate(self) -> None:
        """Tell the process to stop, as Kubernetes does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 30.0) -> int:
        """Return the exit code once the process has ended."""
        return self.process.wait(timeout)

    def output(self) -> str:
        """Return what the process has printed so far."""
        # pread leaves the offset alone, which the process shares.
        return os.pread(self._log.fileno(), 10_000_000, 0).decode(errors="replace")

    def close(self) -> None:
        """End the process, however it is."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._log.close()


def client_of(app: App) -> AsyncClient:
    """Return a client of the app's HTTP API that needs no port; use it with `async with`.

    Errors that nobody expected come as the problem that a real client would get.
    """
    from httpx2 import ASGITransport, AsyncClient

    api = next(part for part in app.components if part.name == "http")
    transport = ASGITransport(app=getattr(api, "application"), raise_app_exceptions=False)  # noqa: B009
    return AsyncClient(transport=transport, base_url="http://service")


@contextlib.asynccontextmanager
async def started(app: App) -> AsyncIterator[App]:
    """Start the app's components, in order, but no server: a client of `client_of` needs none."""
    from marty_lib._server import Server

    async with contextlib.AsyncExitStack() as stack:
        for part in app.components:
            if not isinstance(part, Server) and part.name != "grpc":
                stack.push_async_callback(part.stop)
                await part.start()
        yield app


@contextlib.asynccontextmanager
async def channel_of(app: App) -> AsyncIterator[Channel]:
    """Run the app, whose ports should be 0, and yield a channel to its gRPC server."""
    from grpc.aio import insecure_channel

    await app.start()
    server = next(part for part in app.components if part.name == "grpc")
    try:
        async with insecure_channel(f"127.0.0.1:{getattr(server, 'port')}") as channel:  # noqa: B009
            yield channel
    finally:
        await app.stop(delay=0)


def status(url: str, timeout: float = 2.0) -> int:
    """Return the status that `url` answers with, or 0 where nobody answers."""
    try:
        with _open(url, timeout=timeout) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return 0


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@pytest.fixture
def clock() -> Clock:
    """A clock that moves only when told to."""
    return Clock()


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


@pytest.fixture
def faulty_server() -> Callable[[Fault], FaultyServer]:
    """A function that returns a misbehaving TCP server, to be used with `async with`."""
    return FaultyServer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer of access tokens that can be killed, hung and rotated; it needs `marty-lib[auth]`."""
    from marty_lib._issuer import Issuer

    async with Issuer() as issuer:
        yield issuer


@pytest.fixture
def service_process() -> Iterator[Callable[..., ServiceProcess]]:
    """A function that starts a service as a process (`module`, environment) and returns it once it is ready."""
    with contextlib.ExitStack() as stack:

        def start(module: str, **environment: str) -> ServiceProcess:
            process = ServiceProcess(module, **environment)
            stack.callback(process.close)
            return process.wait_ready()

        yield start
