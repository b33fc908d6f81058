"""The rendered service as a process, with what an owner would add, while things go wrong around it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from marty_lib.testing import free_ports, status

from tests.conftest import Render

pytestmark = pytest.mark.slow

# The service's own app, and in it what an owner might add: slow and broken routes, a dependency.
OWNER = """
import asyncio, os
from marty_lib import main
from order_service.app import create_app as rendered
from order_service.config import Settings

async def dependency():
    _, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["DEPENDENCY_PORT"]))
    writer.close()

def create_app(settings):
    app = rendered(settings)
    app.health.add("dependency", dependency, ttl=0.05)
    api = next(part for part in app.components if part.name == "http").application

    @api.get("/slow/{seconds}")
    async def slow(seconds: float):
        await asyncio.sleep(seconds)
        return {"slept": seconds}

    @api.get("/broken")
    async def broken():
        raise RuntimeError("postgresql://orders:hunter2@db/orders refused")

    return app

main(Settings, create_app)
"""


class Answer(NamedTuple):
    status: int
    headers: Message
    body: Any


class Running:
    """The owner's service on free ports."""

    def __init__(self, service: Path, folder: Path, **variables: str) -> None:
        script, self.log = folder / "owner.py", folder / "log"
        script.write_text(OWNER)
        http, ops, self.dependency = free_ports(3)
        self.http, self.ops = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}"
        ports = {"HTTP_PORT": str(http), "OPS_PORT": str(ops), "DEPENDENCY_PORT": str(self.dependency)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(service / ".venv/bin/python"), str(script)], env=ports | variables, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Return once readiness says so."""
        until(lambda: self.process.poll() is not None or status(f"{self.ops}/health/ready") == 200)
        assert self.process.poll() is None, self.log.read_text()

    def close(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Return status, headers and JSON body of an answer, whatever its status."""
        request = urllib.request.Request(self.http + path, data=body, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.headers, json.load(response))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, json.load(error))

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.ops}/metrics", timeout=10) as response:
            return str(response.read().decode())


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until the condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def listen(port: int) -> socket.socket:
    """Be the dependency."""
    return socket.create_server(("127.0.0.1", port), reuse_port=True)


@pytest.fixture
def start(installed: Render, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts the owner's service; it is ended after the test."""
    with contextlib.ExitStack() as stack:

        def start(**variables: str) -> Running:
            service = Running(installed(), tmp_path, **variables)
            stack.callback(service.close)
            return service

        yield start


@pytest.fixture
def running(start: Callable[..., Running]) -> Iterator[Running]:
    """The owner's service, ready, with its dependency up."""
    service = start()
    with listen(service.dependency):
        service.wait_ready()
        yield service


def test_sigterm_answers_the_request_in_flight_refuses_new_ones_and_exits_0(running: Running) -> None:
    answers: list[Answer] = []
    client = threading.Thread(target=lambda: answers.append(running.ask("/slow/2")))
    client.start()
    until(lambda: "http_server_active_requests 1.0" in running.metrics())
    running.process.terminate()
    until(lambda: status(f"{running.http}/v1/orders") == 0)
    assert not answers
    client.join(20)
    assert [(answer.status, answer.body) for answer in answers] == [(200, {"slept": 2.0})]
    assert running.process.wait(20) == 0


def test_work_that_outlasts_the_drain_is_cut_off_and_the_exit_code_says_so(start: Callable[..., Running]) -> None:
    service = start(DRAIN_TIMEOUT="0.3")
    with listen(service.dependency):
        service.wait_ready()
        threading.Thread(target=status, args=(f"{service.http}/slow/25", 30), daemon=True).start()
        until(lambda: "http_server_active_requests 1.0" in service.metrics())
        service.process.terminate()
        assert service.process.wait(20) == 1
    assert '"finished":false' in service.log.read_text()


def test_liveness_stays_200_while_readiness_follows_the_dependency(start: Callable[..., Running]) -> None:
    service = start()
    with listen(service.dependency):
        service.wait_ready()
    until(lambda: status(f"{service.ops}/health/ready") == 503)
    assert status(f"{service.ops}/health/live") == 200
    assert status(f"{service.http}/v1/orders") == 200
    with listen(service.dependency):
        service.wait_ready()


def test_an_unknown_exception_is_a_problem_with_an_id_and_no_secret(running: Running) -> None:
    answer = running.ask("/broken")
    assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "hunter2" not in json.dumps(answer.body)
    assert "postgresql" not in json.dumps(answer.body)
    until(lambda: answer.body["error_id"] in running.log.read_text())
    assert "hunter2" not in running.log.read_text()


def test_a_body_of_2_mb_gets_413(running: Running) -> None:
    answer = running.ask("/v1/orders", b" " * 2_000_000, {"content-type": "application/json"})
    assert (answer.status, answer.body["code"]) == (413, "payload-too-large")


def test_a_request_that_takes_too_long_gets_504(running: Running) -> None:
    answer = running.ask("/slow/25", headers={"x-request-timeout": "0.2"})
    assert (answer.status, answer.body["code"]) == (504, "deadline-exceeded")


def test_ten_thousand_unknown_paths_add_one_metric_label(running: Running) -> None:
    def series() -> int:
        return running.metrics().count("http_server_request_duration_seconds_count{")

    before = series()
    with socket.create_connection(("127.0.0.1", int(running.http.rpartition(":")[2]))) as connection:
        received = connection.makefile("rb")
        for number in range(10_000):
            connection.sendall(f"GET /unknown/{number} HTTP/1.1\r\nhost: service\r\n\r\n".encode())
            assert received.readline().startswith(b"HTTP/1.1 404")
            length = 0
            while (line := received.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            received.read(length)
    assert series() == before + 1
    assert 'method="GET",route="<unmatched>",status="404"} 10000.0' in running.metrics()


def test_the_callers_ids_are_in_answer_and_log(running: Running) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "checkout-7", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = running.ask("/v1/orders", headers=headers)
    assert answer.headers["x-request-id"] == "checkout-7"
    until(lambda: "checkout-7" in running.log.read_text())
    line = next(json.loads(line) for line in running.log.read_text().splitlines() if "checkout-7" in line)
    assert line["trace_id"] == trace


def test_browsers_are_told_to_be_careful(running: Running) -> None:
    headers = running.ask("/v1/orders").headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "max-age=" in headers["strict-transport-security"]
    assert headers["x-content-type-options"] == "nosniff"
