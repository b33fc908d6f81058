"""A real server in a container: where a Docker daemon answers, by way of testcontainers.

    python -m tests.servers.contained FOLDER NAME PORTS...

is the process between pytest and the container, as guard.py is for a server of this machine: it keeps the container for
as long as somebody holds a lock on the folder, then removes both.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .containers import docker_answers
from .server import STOP_SECONDS, Server, Software

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Image:
    """What runs in the container.

    Args:
        reference: name and tag.
        ports: inside, in the order of the server's own.
        environment: its variables.
        command: in place of the image's own, if any.
    """

    reference: str
    ports: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()


@functools.cache
def docker() -> bool:
    """Say whether there is a Docker daemon, asked once."""
    return docker_answers()


class ContainerServer(Server):
    """A server in a container, which is killed, paused, stopped and started as one of this machine is."""

    def _prepare(self) -> None:
        """Do nothing: the image is prepared."""

    def _launch(self) -> subprocess.Popen[bytes]:
        if self._guard is not None:
            with self._container() as container:
                container.start()
            return self._guard
        command = [str(self.folder), self.software.name, *map(str, self.ports)]
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.servers.contained", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @contextmanager
    def _container(self) -> Iterator[Any]:
        import docker

        with closing(docker.from_env()) as client:
            yield client.containers.get(self.folder.name)

    def kill(self) -> None:
        """Kill it with all its processes."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Have it end in order."""
        self._end(self.software.ending)

    def _end(self, number: signal.Signals) -> None:
        with self._container() as container:
            container.kill(number.value)
            container.wait(timeout=STOP_SECONDS)

    def pause(self) -> None:
        """Freeze it."""
        with self._container() as container:
            container.pause()

    def resume(self) -> None:
        """Let it go on."""
        with self._container() as container:
            container.unpause()

    def log(self) -> str:
        """Return what it has printed; where there is no container, why."""
        from docker.errors import NotFound

        try:
            with self._container() as container:
                printed: bytes = container.logs()
        except NotFound:
            return super().log()
        return printed.decode(errors="replace")


def server_for(software: Software) -> Server:
    """Return a server, not yet started: in a container where Docker answers."""
    return ContainerServer(software) if docker() else Server(software)


def keep(folder: str, image: Image, ports: list[int]) -> None:
    """Run the image until nobody holds a lock on the folder."""
    from testcontainers.core.container import DockerContainer

    lock = os.open(folder, os.O_RDONLY)
    container = DockerContainer(image.reference, name=Path(folder).name, env=dict(image.environment))
    for inside, outside in zip(image.ports, ports, strict=False):
        # Docker's own form of an address; for this machine only.
        container.ports[str(inside)] = cast(int, ("127.0.0.1", outside))
    if image.command:
        container.with_command(list(image.command))
    with container:
        fcntl.flock(lock, fcntl.LOCK_EX)
    shutil.rmtree(folder, ignore_errors=True)


def main(folder: str, name: str, *ports: str) -> None:
    """Do what the module says."""
    from .fixtures import CONTAINED

    numbers = [int(port) for port in ports]
    keep(folder, CONTAINED[name](numbers), numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
