"""Renders a service from this checkout, installs it, runs its tests, starts it and calls it: `make demo`.

It needs only what `requirements/render.txt` installs. `--check` ends by itself and fails if any step fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
NAME = "order-service"
SERVICE = ROOT / ".demo" / NAME
LOG = ROOT / ".demo" / f"{NAME}.log"


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="end by itself instead of staying up")
    check = parser.parse_args().check
    http, ops = port("HTTP_PORT", "8000"), port("OPS_PORT", "9000")
    render(http, ops)
    step("Installing it into its own environment")
    make("install")
    step("Running its tests")
    make("test")
    step("Starting it on embedded defaults")
    service = start(http, ops)
    try:
        call(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}")
        if not check:
            stay(service)
    finally:
        code = stop(service)
    if code:
        fail(f"the service ended with {code} instead of 0")
    step("It stopped cleanly: exit code 0")


def step(text: str) -> None:
    """Say what happens now."""
    print(f"==> {text}", flush=True)


def fail(text: str) -> NoReturn:
    """End with one sentence."""
    sys.exit(f"demo: {text}")


def port(variable: str, default: str) -> int:
    """Return the port that a variable names, if it can be had."""
    text = os.environ.get(variable) or default
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        fail(f"{variable}={text} is no port: use a number from 1024 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError:
            other = f"make demo {variable}={int(text) + 1}"
            fail(f"port {text} is taken: stop what uses it, or choose another, such as: {other}")
    return int(text)


def render(http: int, ops: int) -> None:
    """Render the service with Copier from this checkout, over what an earlier demo left."""
    step(f"Rendering {NAME} with Copier into {SERVICE.relative_to(ROOT)}")
    if SERVICE.exists():
        for entry in SERVICE.iterdir():
            # The environment stays: installing it is the slow part.
            if entry.name != ".venv":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    answers = {
        "service_name": NAME,
        "service_description": "Takes orders and tells how they fare",
        "author_name": "Marty",
        "author_email": "marty@example.com",
        "http_port": http,
        "ops_port": ops,
        "python_version": f"{sys.version_info.major}.{min(sys.version_info.minor, 14)}",
        "marty_lib_source": str(ROOT / "lib"),
    }
    data = [f"--data={name}={value}" for name, value in answers.items()]
    options = ["--quiet", "--trust", "--defaults", "--overwrite", "--vcs-ref=HEAD"]
    run([sys.executable, "-W", "ignore", "-m", "copier", "copy", *options, *data, str(ROOT), str(SERVICE)])


def run(command: list[str], **variables: str) -> None:
    """Run a command, and end where it fails."""
    if subprocess.run(command, env=environment(**variables), check=False).returncode:
        fail(f"this step failed: {' '.join(command[:6])}")


def make(target: str) -> None:
    """Make a target of the service."""
    run(["make", "--no-print-directory", "-C", str(SERVICE), target])


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child: the tools of `.venv`, and no virtual environment or flags of ours."""
    unwanted = {"VIRTUAL_ENV", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "PYTEST_FLAGS", "HTTP_PORT", "OPS_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | variables


def start(http: int, ops: int) -> subprocess.Popen[bytes]:
    """Start the service and return it once it is ready."""
    python = SERVICE / ".venv" / "bin" / "python"
    with LOG.open("wb") as log:
        service = subprocess.Popen(
            [str(python), "-m", NAME.replace("-", "_")],
            cwd=SERVICE,
            env=environment(HTTP_PORT=str(http), OPS_PORT=str(ops)),
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is ours: we then stop the service as Kubernetes does.
            start_new_session=True,
        )
    ends = time.monotonic() + 30
    while service.poll() is None and time.monotonic() < ends:
        try:
            fetch(f"http://127.0.0.1:{ops}/health/ready")
        except OSError:
            time.sleep(0.05)
        else:
            return service
    stop(service)
    fail(f"the service did not become ready; its log says:\n{LOG.read_text()[-2000:]}")


def fetch(url: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON (or the text) that a URL answers with."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        text = response.read().decode()
    return json.loads(text) if response.headers["content-type"].startswith("application/json") else text


def call(api: str, ops: str) -> None:
    """Use the service as a client would, and look that it counts."""
    step("Calling it")
    placed = fetch(f"{api}/v1/orders", {"customer": "ada", "item": "engine", "quantity": 1})
    print(f"    POST /v1/orders -> {placed}")
    found = fetch(f"{api}/v1/orders/{placed['id']}")
    if found != placed:
        fail(f"the order that was placed reads {found}")
    listed = fetch(f"{api}/v1/orders?customer=ada")["items"]
    if placed not in listed:
        fail("the order that was placed is not in the list")
    print(f"    GET  /v1/orders -> {len(listed)} order(s)")
    if "/v1/orders/{order_id}" not in fetch(f"{api}/openapi.json")["paths"]:
        fail("the OpenAPI document does not describe orders")
    if "orders_placed_total 1.0" not in fetch(f"{ops}/metrics"):
        fail("the metrics do not count the order")
    step("It works:")
    print(f"    API docs  {api}/docs")
    print(f"    health    {ops}/health/ready")
    print(f"    metrics   {ops}/metrics")
    print(f"    its log   {LOG.relative_to(ROOT)}", flush=True)


def stay(service: subprocess.Popen[bytes]) -> None:
    """Wait for Ctrl-C."""
    step("It stays up; Ctrl-C stops it")
    try:
        service.wait()
    except KeyboardInterrupt:
        print(flush=True)


def stop(service: subprocess.Popen[bytes]) -> int:
    """Stop the service as Kubernetes does; return its exit code."""
    if service.poll() is None:
        service.send_signal(signal.SIGTERM)
    try:
        return service.wait(30)
    except subprocess.TimeoutExpired:
        service.kill()
        fail("the service did not stop within 30 s of SIGTERM")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except urllib.error.URLError as error:
        fail(f"a call failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
