"""Kafka starts with the manifests' own configuration and script, and again on the volume that it has."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.observability.rules import OBSERVABILITY
from tests.servers import kafka
from tests.servers.requirement import missing
from tests.servers.server import Server

FOLDER = OBSERVABILITY / "kafka" / "kafka"
PROGRAMS = {"kafka-storage.sh": "kafka.tools.StorageTool", "kafka-server-start.sh": "kafka.Kafka"}
ADDRESS = "kafka-0.kafka.kafka.svc.cluster.local"


@dataclass(frozen=True)
class Deployed(kafka.Kafka):
    """Kafka as the StatefulSet runs it: its jars in place of the image, addresses and the volume of this machine."""

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        text = (FOLDER / "server.properties").read_text(encoding="utf-8")
        text = (
            text.replace("/var/lib/kafka/data", f"{folder}/data")
            .replace(ADDRESS, "127.0.0.1")
            .replace("://:", "://127.0.0.1:")
        )
        text = text.replace(":9092", f":{ports[0]}").replace(":9093", f":{ports[1]}")
        (folder / "server.properties").write_text(text, encoding="utf-8")
        (folder / "bin").mkdir()
        for name, main in PROGRAMS.items():
            program = folder / "bin" / name
            command = " ".join(f"'{word}'" for word in self._java(main))
            program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        return []

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return ["sh", str(FOLDER / "start.sh")]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        workload = yaml.safe_load((FOLDER / "statefulset.yaml").read_text(encoding="utf-8"))
        variables = workload["spec"]["template"]["spec"]["containers"][0]["env"]
        given = {variable["name"]: variable["value"] for variable in variables}
        return given | {"KAFKA_HOME": str(folder), "CONFIGURATION": f"{folder}/server.properties"}


@pytest.fixture
def server() -> Iterator[Server]:
    """The deployed Kafka, running."""
    found = kafka.installed()
    if found is None:
        missing("Kafka is not on this machine: apt install default-jdk-headless maven (Java 17 or newer)")
    server = Server(Deployed(found.jars))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.mark.slow
def test_it_starts_on_a_new_volume_and_again_on_that(server: Server) -> None:
    identity = re.search(r"cluster.id=(\S+)", (server.folder / "data" / "meta.properties").read_text())
    server.restart()
    again = re.search(r"cluster.id=(\S+)", (server.folder / "data" / "meta.properties").read_text())
    assert identity is not None
    assert again is not None
    assert identity[1] == again[1]


def test_shellcheck_has_nothing_against_the_script() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("shellcheck")), str(FOLDER / "start.sh")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
