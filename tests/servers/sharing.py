"""One server for all workers of a session: the first one who needs it starts it, with the last one it ends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .contained import server_for
from .containers import exclusive
from .server import Server, Software, hold

# Until this process ends, or Python complains that they still run.
_guards: list[subprocess.Popen[bytes] | None] = []


@contextmanager
def shared(software: Software, session: Path, make: Callable[[Software], Server] = server_for) -> Iterator[list[int]]:
    """Yield the ports of the session's server.

    Args:
        software: what to start where nobody has.
        session: a folder that all workers of the session share.
        make: what makes it a server.
    """
    record = session / f"{software.name}.json"
    with exclusive(record):
        lock, ports = _join(record) or _begin(make(software), record)
    try:
        yield ports
    finally:
        os.close(lock)


def _join(record: Path) -> tuple[int, list[int]] | None:
    """Return a lock that keeps the running server, and its ports."""
    with suppress(OSError):
        known = json.loads(record.read_text())
        return hold(Path(known["folder"])), known["ports"]
    return None


def _begin(server: Server, record: Path) -> tuple[int, list[int]]:
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    lock, guard = server.leave()
    _guards.append(guard)
    record.write_text(json.dumps({"folder": str(server.folder), "ports": server.ports}))
    return lock, server.ports
