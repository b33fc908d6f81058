"""A server that misbehaves, for tests of what a service does then."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal

Fault = Literal["hang", "reset", "garbage"]


class FaultyServer:
    """A TCP server that takes connections and then fails its clients.

    Args:
        fault: `hang` never answers, `reset` breaks the connection off, `garbage` answers with nonsense.
    """

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.port = 0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._hanging: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultyServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._hanging:
            task.cancel()
        if self._hanging:
            await asyncio.wait(set(self._hanging))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._hanging.add(task)
        try:
            if self.fault == "hang":
                await asyncio.Event().wait()
            elif self.fault == "garbage":
                writer.write(b"\x00\xff not what you expected \r\n")
                await writer.drain()
            else:
                # Without lingering a close is a reset.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._hanging.discard(task)
