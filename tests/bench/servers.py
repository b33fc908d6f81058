"""The servers that are compared: each is started once, on a CPU of its own, and kept until the end."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .environment import ROOT, environment
from .plan import Plan
from .report import Figures
from .sink import Sink

HERE = Path(__file__).parent
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, CLIENT_CPU = CPUS[0], CPUS[-1]
TICKS = os.sysconf("SC_CLK_TCK")
SERVICE_LINE = b'"event":"http.request"'


@dataclass
class Row:
    """One server.

    Args:
        name: shown in the table.
        command: after `python`; `{port}` is replaced.
        variables: for its environment; `{port}` is replaced.
        line: what each line of its access log holds; empty where it has none.
        sink: under which name its spans arrive; empty where it sends none.
        client: arguments of the client, after the port.
        load: the client's module.
    """

    name: str
    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    line: bytes = b""
    sink: str = ""
    client: tuple[str, ...] = ()
    load: str = "tests.bench.client"


class Server:
    """A running row; what it prints goes to a file, and it is put on the servers' CPU."""

    def __init__(self, row: Row, python: Path, folder: Path) -> None:
        self.row = row
        self.port = free_port()
        self.served = 0
        self.output = folder / f"{row.name.replace(' ', '-')}.log"
        self._python = python
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [python, *(part.format(port=self.port) for part in row.command)],
                env=environment(**{name: value.format(port=self.port) for name, value in row.variables.items()}),
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.sched_setaffinity(self.process.pid, {SERVER_CPU})

    def wait(self) -> None:
        """Return once it listens.

        Raises:
            SystemExit: where it does not.
        """
        ends = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < ends:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        sys.exit(f"bench: {self.row.name} did not start:\n{self.output.read_text()[-2000:]}")

    def load(self, *, seconds: float = 60.0, requests: int = 0) -> dict[str, float]:
        """Put load on it and return what the client saw, and `cpu`: the server's microseconds for each request."""
        amount = f"--requests={requests}", f"--seconds={seconds}"
        client = [str(self._python), "-m", self.row.load, str(self.port), *self.row.client, *amount]
        before = self._cpu_seconds()
        done = subprocess.run(client, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"bench: the load on {self.row.name} failed:\n{done.stderr[-2000:]}")
        seen: dict[str, float] = json.loads(done.stdout)
        self.served += int(seen["served"])
        return seen | {"cpu": (self._cpu_seconds() - before) / seen["requests"] * 1e6}

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Return its resident memory in MB."""
        return memory_of(self.process.pid)

    def stop(self) -> None:
        """Stop it, as gently as it lets itself be stopped."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def prove(self, sink: Sink | None) -> None:
        """Look, after the end, that it has done what its row promises.

        Raises:
            SystemExit: where it has not.
        """
        row = self.row
        logged = self.output.read_bytes().count(row.line) if row.line else self.served
        if logged != self.served:
            sys.exit(f"bench: {row.name} answered {self.served} requests but logged {logged}")
        if sink and row.sink and not sink.batches[row.sink]:
            sys.exit(f"bench: no spans of {row.name} have arrived")


def memory_of(pid: int) -> float:
    """Return a process's resident memory in MB, shared libraries included."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(rows: list[Row], python: Path, folder: Path, sink: Sink | None = None) -> Iterator[list[Server]]:
    """Run all servers inside a `with` block; prove them after it."""
    # The client, the sink and this process share the other CPU.
    os.sched_setaffinity(0, {CLIENT_CPU})
    with ExitStack() as stack:
        servers = []
        for row in rows:
            servers.append(Server(row, python, folder))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait()
        yield servers
    os.sched_setaffinity(0, set(CPUS))
    for server in servers:
        server.prove(sink)


def take_turns(rows: list[Row], python: Path, folder: Path, plan: Plan, sink: Sink | None = None) -> list[Figures]:
    """Start the servers, have them take turns, and return what was seen."""
    step(f"Starting {len(rows)} servers, which take turns in {plan.rounds} rounds")
    with started(rows, python, folder, sink) as running:
        figures = [Figures(server.row.name) for server in running]
        for server, row in zip(running, figures, strict=True):
            server.load(requests=plan.first)
            row.memory = server.memory()
        for _ in range(plan.rounds):
            for server, row in zip(running, figures, strict=True):
                row.rounds.append(server.load(seconds=plan.seconds))
    return figures


def step(text: str) -> None:
    """Say what happens now."""
    print(f"==> {text}", flush=True)
