"""A real server as a process of this machine: started, killed, paused and started again on the same port and data."""

from __future__ import annotations

import fcntl
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

GUARD = Path(__file__).with_name("guard.py")
START_SECONDS = 90.0
STOP_SECONDS = 30.0
# Below the range that outgoing connections take their ports from: a stopped server finds its own free again.
PORTS = range(20000, 32000)


class Software(Protocol):
    """What starts as a server: PostgreSQL, Redis, RabbitMQ or Kafka."""

    @property
    def name(self) -> str:
        """Its name in folders and messages."""

    @property
    def ports(self) -> int:
        """How many ports it takes; the first is the one that clients call."""

    @property
    def ending(self) -> signal.Signals:
        """The signal on which it ends at once and in order."""

    @property
    def as_root(self) -> bool:
        """Whether root may run it."""

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        """Write its configuration into an empty folder; return the commands that must run there before it."""

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        """Return the command that runs it in the foreground."""

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        """Return variables for its environment."""

    def url(self, ports: list[int]) -> str:
        """Return where clients find it."""

    def check(self, ports: list[int]) -> None:
        """Return where it answers a client; raise anything where it does not."""


class Server:
    """A server in a folder of its own; close it, and both are gone.

    Args:
        software: what runs.
    """

    def __init__(self, software: Software) -> None:
        self.software = software
        self.user = unprivileged_user() if os.geteuid() == 0 and not software.as_root else ""
        # Not below pytest's folder, which other users may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix=f"marty-{software.name}-"))
        self.ports = free_server_ports(software.ports)
        self._lock = hold(self.folder)
        self._guard: subprocess.Popen[bytes] | None = None
        if self.user:
            shutil.chown(self.folder, self.user)
        self._prepare()

    def _prepare(self) -> None:
        for command in self.software.prepare(self.folder, self.ports):
            self._finish(self._run(command))

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.software.url(self.ports)

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that clients call."""
        return self.ports[0]

    @property
    def address(self) -> str:
        """Its host and port, as Kafka's clients take it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Server:
        """Start it, or start it again with the data that it has; return it once it answers.

        Raises:
            RuntimeError: with the end of its log, where it ends or does not answer.
        """
        self._guard = self._launch()
        ends, reason = time.monotonic() + START_SECONDS, "it ended"
        while self._guard.poll() is None and time.monotonic() < ends:
            try:
                self.software.check(self.ports)
            except Exception as error:
                reason = repr(error)
                time.sleep(0.03)
            else:
                return self
        raise RuntimeError(f"{self.software.name} does not answer ({reason}):\n{self.log()[-4000:]}")

    def _launch(self) -> subprocess.Popen[bytes]:
        return self._run(self.software.command(self.folder, self.ports))

    def kill(self) -> None:
        """Kill it with all its processes, as the kernel does when memory runs out."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """Have it end in order."""
        self._signal(self.software.ending, children=False)
        self._wait()

    def pause(self) -> None:
        """Stop all its processes where they are: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        # What is sent is not yet obeyed: one may still answer, or have a new child.
        while not all(map(stands, self._processes())):
            time.sleep(0.001)
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> Server:
        """Kill it and start it again."""
        self.kill()
        return self.start()

    def log(self) -> str:
        """Return what it has printed."""
        return (self.folder / "output.log").read_text(errors="replace")

    def close(self) -> None:
        """Give it up: once nobody else uses it, it is killed and its folder removed."""
        os.close(self._lock)
        if self._guard is None or self._guard.poll() is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self._wait()

    def leave(self) -> tuple[int, subprocess.Popen[bytes] | None]:
        """Hand over the lock that keeps it running, and the process that watches the lock."""
        return self._lock, self._guard

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, str(GUARD), str(self.folder), self.user, *command],
                env=os.environ | {"HOME": str(self.folder)} | dict(self.software.environment(self.folder, self.ports)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait(START_SECONDS):
            raise RuntimeError(f"{self.software.name} cannot be prepared:\n{self.log()[-4000:]}")

    def _signal(self, number: signal.Signals, *, children: bool = True) -> None:
        # The parent first: it would replace a child that it misses, or restart all.
        for process in self._processes(children=children):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self, *, children: bool = True) -> list[psutil.Process]:
        assert self._guard is not None, "start it first"
        return psutil.Process(self._guard.pid).children(recursive=children)

    def _wait(self) -> None:
        assert self._guard is not None, "start it first"
        self._guard.wait(STOP_SECONDS)


def stands(process: psutil.Process) -> bool:
    """Say whether a process is stopped, or gone."""
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def hold(folder: Path) -> int:
    """Return a lock on the folder, which keeps its server running until it is closed or this process ends.

    Raises:
        OSError: where the server is ending or has ended.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def unprivileged_user() -> str:
    """Return a user for what refuses to run as root."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def free_server_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"nothing from {PORTS[0]} to {PORTS[-1]} is free")
