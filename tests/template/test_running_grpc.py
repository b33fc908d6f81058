"""The rendered gRPC and hybrid services as processes, with what an owner would add: one drain for all doors."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from marty_lib.testing import free_ports, status

from tests.conftest import Render, make

pytestmark = pytest.mark.slow

# The service's own app, and in it what an owner might add: work that waits for a file, at every door there is.
OWNER = """
import asyncio
from pathlib import Path

import grpc
from marty_lib import main
from order_service.app import create_app as rendered
from order_service.config import Settings


async def there(path):
    while not Path(path).exists():
        await asyncio.sleep(0.01)


async def wait(request, context):
    await there(request.decode())
    return b"waited"


async def broken(request, context):
    raise RuntimeError("postgresql://orders:hunter2@db/orders refused")


async def echo(requests, context):
    async for request in requests:
        yield request


def register(server):
    server.add_registered_method_handlers("owner.v1.Owner", {
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Broken": grpc.unary_unary_rpc_method_handler(broken),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    })


def create_app(settings):
    app = rendered(settings)
    parts = {part.name: part for part in app.components}
    parts["grpc"].add(register)
    if "http" in parts:
        @parts["http"].application.get("/wait")
        async def wait_over_http(path: str):
            await there(path)
            return "waited"
    return app


main(Settings, create_app)
"""


class Running:
    """The owner's service on free ports."""

    def __init__(self, service: Path, folder: Path, **variables: str) -> None:
        script, self.log = folder / "owner.py", folder / "log"
        script.write_text(OWNER)
        http, rpc, ops = free_ports(3)
        self.http, self.ops, self.target = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}", f"127.0.0.1:{rpc}"
        ports = {"HTTP_PORT": str(http), "GRPC_PORT": str(rpc), "OPS_PORT": str(ops)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(service / ".venv/bin/python"), str(script)], env=ports | variables, stdout=log, stderr=log
            )
        until(lambda: self.process.poll() is not None or status(f"{self.ops}/health/ready") == 200)
        assert self.process.poll() is None, self.log.read_text()
        self.channel = grpc.insecure_channel(self.target)

    def close(self) -> None:
        """End the process, however it is."""
        self.channel.close()
        self.process.kill()
        self.process.wait()

    def call(self, method: str, request: bytes = b"", **how: Any) -> Any:
        """Make a unary call of the owner's, with raw bytes."""
        call: Any = self.channel.unary_unary(f"/owner.v1.Owner/{method}")
        return call(request, timeout=30, **how)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.http + path, timeout=30) as response:
            return str(json.load(response))

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.ops}/metrics", timeout=10) as response:
            return str(response.read().decode())


class Conversation:
    """A stream in both directions, led step by step."""

    def __init__(self, running: Running) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        echo: Any = running.channel.stream_stream("/owner.v1.Owner/Echo")
        self._answers = echo(iter(self._requests.get, None), timeout=30)

    def say(self, text: bytes) -> bytes:
        """Say something and return what comes back."""
        self._requests.put(text)
        return bytes(next(self._answers))

    def end(self) -> grpc.StatusCode:
        """Say no more; return how the call has ended."""
        self._requests.put(None)
        assert list(self._answers) == []
        code: grpc.StatusCode = self._answers.code()
        return code


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until the condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def start(installed: Render, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts the owner's service of a kind; it is ended after the test."""
    with contextlib.ExitStack() as stack:

        def start(kind: str, **variables: str) -> Running:
            running = Running(installed(service_kind=kind), tmp_path, **variables)
            stack.callback(running.close)
            return running

        yield start


@pytest.mark.parametrize("order", [("http", "rpc", "stream"), ("stream", "rpc", "http"), ("rpc", "stream", "http")])
def test_sigterm_loses_neither_request_nor_call_nor_stream_in_whichever_order_they_end(
    start: Callable[..., Running], tmp_path: Path, order: tuple[str, ...]
) -> None:
    running, gates = start("hybrid"), {name: tmp_path / name for name in ("http", "rpc")}
    conversation = Conversation(running)
    with ThreadPoolExecutor() as pool:
        answers: dict[str, Future[Any]] = {
            "http": pool.submit(running.get, f"/wait?path={gates['http']}"),
            "rpc": pool.submit(running.call, "Wait", str(gates["rpc"]).encode()),
        }
        assert conversation.say(b"one") == b"one"
        until(lambda: {"http_server_active_requests 1.0", "grpc_server_active_calls 2.0"} <= set(lines(running)))
        running.process.terminate()
        until(lambda: status(f"{running.http}/v1/orders") == 0 and refused(running))

        for name in order:
            assert running.process.poll() is None
            if name == "stream":
                assert conversation.say(b"two") == b"two"
                assert conversation.end() == grpc.StatusCode.OK
            else:
                assert not answers[name].done()
                gates[name].touch()
                assert answers[name].result(20) == {"http": "waited", "rpc": b"waited"}[name]
    assert running.process.wait(20) == 0


def lines(running: Running) -> list[str]:
    return running.metrics().splitlines()


def refused(running: Running) -> bool:
    """Return whether a new client is refused."""
    with grpc.insecure_channel(running.target) as channel:
        call: Any = channel.unary_unary("/owner.v1.Owner/Nothing")
        try:
            call(b"", timeout=10)
        except grpc.RpcError as error:
            return bool(getattr(error, "code")() == grpc.StatusCode.UNAVAILABLE)  # noqa: B009
    return False


def test_a_call_that_outlasts_the_drain_is_told_to_ask_again_and_the_exit_code_says_so(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start("grpc", DRAIN_TIMEOUT="0.3")
    codes: list[grpc.StatusCode] = []
    waiting = threading.Thread(target=lambda: codes.append(code_of(running, "Wait", str(tmp_path / "never").encode())))
    waiting.start()
    until(lambda: "grpc_server_active_calls 1.0" in lines(running))
    running.process.terminate()

    assert running.process.wait(20) == 1
    waiting.join(20)
    assert codes == [grpc.StatusCode.UNAVAILABLE]
    assert '"finished":false' in running.log.read_text()


def code_of(running: Running, method: str, request: bytes = b"") -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failed:
        running.call(method, request)
    code: grpc.StatusCode = getattr(failed.value, "code")()  # noqa: B009
    return code


def test_an_unknown_exception_is_internal_and_shows_no_secret(start: Callable[..., Running]) -> None:
    running = start("grpc")
    with pytest.raises(grpc.RpcError) as failed:
        running.call("Broken", metadata=(("x-request-id", "checkout-7"),))

    assert "INTERNAL" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    until(lambda: "checkout-7" in running.log.read_text())
    assert "hunter2" not in running.log.read_text()


def test_ten_thousand_unknown_methods_add_one_metric_label(start: Callable[..., Running]) -> None:
    running = start("grpc")
    before = running.metrics().count("grpc_server_call_duration_seconds_count{")
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(lambda number: code_of(running, f"Unknown{number}"), range(10_000)))

    assert codes == {grpc.StatusCode.UNIMPLEMENTED}
    assert running.metrics().count("grpc_server_call_duration_seconds_count{") == before + 1
    assert 'code="UNIMPLEMENTED",method="<unmatched>"} 10000.0' in running.metrics()


def test_load_reports_what_it_did_and_fails_where_nobody_answers(start: Callable[..., Running], render: Render) -> None:
    running, service = start("grpc"), render(service_kind="grpc")
    make(service, "load", f"GRPC_TARGET={running.target}", "USERS=3", "SECONDS=2")
    for method in ("PlaceOrder", "GetOrder"):
        assert f'method="order_service.v1.OrderService/{method}"' in running.metrics()

    running.process.terminate()
    assert running.process.wait(20) == 0
    with pytest.raises(AssertionError, match="load"):
        make(service, "load", f"GRPC_TARGET={running.target}", "USERS=3", "SECONDS=2")


class TestStubs:
    """No stale copy of what is generated can be run or shipped."""

    @pytest.fixture
    def service(self, render: Render, tmp_path: Path) -> Path:
        service = tmp_path / "order-service"
        copy_of(render(service_kind="grpc"), service)
        make(service, "install")
        return service

    def test_a_change_of_the_proto_is_seen_by_the_next_target(self, service: Path) -> None:
        change(service)
        make(service, "install")
        assert "note" in stub(service)

    def test_stubs_that_are_gone_come_back(self, service: Path) -> None:
        for file in (service / "src/order_service/v1").iterdir():
            if file.is_file():
                file.unlink()
        make(service, "proto")
        assert "OrderServiceStub" in stub(service, "orders_pb2_grpc.pyi")

    def test_the_wheel_holds_stubs_of_the_proto_as_it_is_now(self, service: Path) -> None:
        change(service)
        make(service, "build")
        (wheel,) = (service / "dist").glob("*.whl")
        listed = subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
        ).stdout
        assert all(f"order_service/v1/orders_pb2{end}" in listed for end in (".py", ".pyi", "_grpc.py", "_grpc.pyi"))
        assert "note" in stub(service)

    def test_a_proto_with_an_error_says_where(self, service: Path) -> None:
        with (service / "proto/order_service/v1/orders.proto").open("a") as proto:
            proto.write("nonsense\n")
        with pytest.raises(AssertionError, match=r"orders.proto:\d+:1: Expected top-level statement"):
            make(service, "install")

    def test_the_runtime_is_not_older_than_the_compiler(self, service: Path) -> None:
        project = (service / "pyproject.toml").read_text()
        compiler = project.partition("grpcio-tools==")[2].partition('"')[0]
        assert f'"grpcio>={compiler}"' in project
        messages = project.partition('"protobuf>=')[2].partition('"')[0]
        assert f"Protobuf Python Version: {messages}\n" in stub(service, "orders_pb2.py")


def copy_of(source: Path, target: Path) -> None:
    """Copy a service without what was installed into it."""
    made = shutil.ignore_patterns(".venv", "uv.lock", "*_pb2*", "dist", "__pycache__")
    shutil.copytree(source, target, ignore=made)


def change(service: Path) -> None:
    """Add a field to the proto."""
    proto = service / "proto/order_service/v1/orders.proto"
    text = proto.read_text()
    proto.write_text(text.replace("message PlaceOrdersResponse {\n", "message PlaceOrdersResponse {\n  string note = 9;\n"))


def stub(service: Path, name: str = "orders_pb2.pyi") -> str:
    return (service / "src/order_service/v1" / name).read_text()
