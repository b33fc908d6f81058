"""A rendered service as a process of its own environment, which may stop and begin again on its ports."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from marty_lib.testing import ServiceProcess


class Rendered(ServiceProcess):
    """A rendered service.

    Args:
        folder: where it is rendered and installed.
        ports: for operations, HTTP and gRPC.
        package: what `python -m` runs.
        variables: all of its environment besides the ports.
    """

    def __init__(self, folder: Path, ports: list[int], package: str = "order_service", **variables: str) -> None:
        self.ops_port, self.http_port, self.grpc_port = ports
        self.ops = f"http://127.0.0.1:{self.ops_port}"
        self.http = f"http://127.0.0.1:{self.http_port}"
        self.grpc = f"127.0.0.1:{self.grpc_port}"
        names = zip(("OPS_PORT", "HTTP_PORT", "GRPC_PORT"), map(str, ports), strict=True)
        self._variables = variables | dict(names)
        self._folder = folder
        self._command = [str(folder / ".venv" / "bin" / "python"), "-m", package]
        self._file = folder / ".venv" / f"live-{self.ops_port}.log"
        self.begin()

    def begin(self) -> None:
        """Start it, or start it again."""
        with self._file.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._variables, cwd=self._folder, stdout=log, stderr=log
            )

    def output(self) -> str:
        """Return what it has printed."""
        return self._file.read_text(errors="replace")

    def close(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], object], what: Callable[[], object], seconds: float = 60) -> None:
    """Poll until the condition holds; fail with what is missing."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what()
        time.sleep(0.1)
