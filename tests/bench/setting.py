"""What the suites share, made when the first of them asks for it: template, environment, real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import pytest

from tests.servers.contained import server_for
from tests.servers.fixtures import find
from tests.servers.server import Server

from . import environment
from .servers import CLIENT_CPU, CPUS


class Setting:
    """A folder for everything, and what ends with it.

    Args:
        folder: an empty one.
        stack: closes what was started.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def made(self, name: str) -> Path:
        """Return a new folder."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    @cached_property
    def template(self) -> Path:
        """This checkout as a template."""
        return environment.export(self.made("template"))

    @cached_property
    def python(self) -> Path:
        """The Python of the one environment in which all rows run."""
        service = self.render(environment.NAME, **environment.ANSWERS)
        return environment.install(self.folder / "environment", service)

    def render(self, name: str, **answers: str) -> Path:
        """Render a service; return its folder."""
        target = self.folder / name
        environment.copy(self.template, target, environment.ANSWERS | answers | {"service_name": name})
        return target

    def install(self, name: str, **answers: str) -> Path:
        """Render a service and install it beside the others; return its folder."""
        service = self.render(name, **answers)
        environment.add(self.python, service)
        return service

    def server(self, name: str) -> Server:
        """Return a real server, which runs on the clients' CPU until the end.

        Raises:
            SystemExit: where this machine has none.
        """
        try:
            server = server_for(find(name))
        except (pytest.skip.Exception, pytest.fail.Exception) as reason:
            raise SystemExit(f"bench: {reason}") from None
        self._stack.callback(server.close)
        with pinned():
            return server.start()


@contextmanager
def pinned() -> Iterator[None]:
    """Keep what is started inside off the CPU of the servers that are measured."""
    os.sched_setaffinity(0, {CLIENT_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(CPUS))
