"""uvicorn as a component: it neither owns signals nor ends the process, and it drains when told to."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from marty_lib.errors import StartError


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the app: uvicorn would raise them again after its own drain, under everybody else."""
        yield


class Server:
    """An ASGI application on a port.

    Args:
        name: as shown in logs and errors.
        application: what answers.
        host: address to listen on.
        port: port to listen on; 0 takes a free one, which `port` then tells.
        setting: environment name of the port, for the error when it is taken.
    """

    drain_phase = 1

    def __init__(self, name: str, application: Any, *, host: str, port: int, setting: str = "the port") -> None:
        self.name = name
        self.application = application
        self.port = port
        self._host = host
        self._setting = setting
        config = uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self._uvicorn = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            StartError: where the port is taken or the address is not this machine's.
        """
        sock = self._bind()
        self.port = sock.getsockname()[1]
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[sock]), name=f"server-{self.name}")
        while not self._uvicorn.started:
            if self._task.done():
                self._task.result()
                raise StartError(f"the {self.name} server ended while it started")
            await asyncio.sleep(0.005)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((self._host, self.port))
            sock.listen()
        except OSError as error:
            sock.close()
            taken = error.errno == errno.EADDRINUSE
            remedy = f"set {self._setting} to a free port" if taken else f"check the host and {self._setting}"
            raise StartError(f"cannot listen on {self._host}:{self.port} ({error.strerror}): {remedy}") from error
        sock.setblocking(False)
        return sock

    async def wait(self) -> None:
        """Return when the server has ended, which it does by itself only on a defect."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def drain(self) -> None:
        """Refuse connections, answer the requests under way, then end."""
        self._uvicorn.should_exit = True
        await self.wait()

    async def stop(self) -> None:
        """End at once, requests under way included."""
        if self._task is None or self._task.done():
            return
        self._uvicorn.should_exit = self._uvicorn.force_exit = True
        for request in self._uvicorn.server_state.tasks:
            request.cancel()
        await asyncio.wait({self._task}, timeout=1.0)
        self._task.cancel()
