"""Prometheus and Alertmanager by the distribution's programs, each with a configuration of the test's own."""

from __future__ import annotations

import shutil
import signal
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .requirement import missing

REMEDY = "is not on the PATH: apt install prometheus prometheus-alertmanager"


@dataclass(frozen=True)
class Prometheus:
    """Prometheus.

    Args:
        files: texts by name, among them `prometheus.yml`; `PORT` in a text is its own port.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    name = "prometheus"
    ports = 1
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        write(folder, self.files, ports[0])
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return [
            program("prometheus"),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
            # It finds Alertmanager only after its first alerts.
            "--rules.alert.resend-delay=1s",
        ]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {}

    def url(self, ports: list[int]) -> str:
        return f"http://127.0.0.1:{ports[0]}"

    def check(self, ports: list[int]) -> None:
        urllib.request.urlopen(f"{self.url(ports)}/-/ready", timeout=3).close()


@dataclass(frozen=True)
class Alertmanager(Prometheus):
    """Alertmanager; its file is `alertmanager.yml`."""

    name = "alertmanager"

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return [
            program("prometheus-alertmanager", "alertmanager"),
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
            "--cluster.listen-address=",
        ]


def program(*names: str) -> str:
    """Return the first of these programs that is there; skip the test where none is."""
    for name in names:
        if found := shutil.which(name):
            return found
    return missing(f"{names[0]} {REMEDY}")


def write(folder: Path, files: Mapping[str, str], port: int) -> None:
    """Write the files with the server's port in them."""
    for name, text in files.items():
        (folder / name).write_text(text.replace("PORT", str(port)), encoding="utf-8")
