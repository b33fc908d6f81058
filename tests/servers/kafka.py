"""Apache Kafka: the broker's own jars, which Maven resolves, as one node that is broker and controller (KRaft).

`python -m tests.servers.kafka` fetches the jars, so that no test has to wait for them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from .contained import Image
from .containers import cache_folder, exclusive, run
from .postgresql import in_thread

POM = Path(__file__).with_name("kafka.pom.xml")
OLDEST_JAVA = 17
CLUSTER = "marty-for-tests-0000AA"  # 22 characters of base64: 16 bytes
HEAP = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
LOG = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",)
CONFIGURATION = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
# One node holds all that Kafka keeps for itself.
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Small, and quick to answer, to start and to stop.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
broker.session.timeout.ms=2000
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=2
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
controlled.shutdown.enable=false
controller.quorum.election.timeout.ms=200
controller.quorum.election.backoff.max.ms=200
controller.quorum.fetch.timeout.ms=400
"""


def image(ports: list[int]) -> Image:
    """Return the official image, set up as the jars are."""
    settings = CONFIGURATION.format(broker=9092, controller=9093, folder="/tmp/kafka")  # noqa: S108 - inside
    lines = [line.partition("=") for line in settings.splitlines() if line and not line.startswith("#")]
    environment = {f"KAFKA_{name.replace('.', '_').upper()}": value for name, _, value in lines}
    environment["KAFKA_LISTENERS"] = "PLAINTEXT://:9092,CONTROLLER://:9093"
    environment["KAFKA_ADVERTISED_LISTENERS"] = f"PLAINTEXT://127.0.0.1:{ports[0]}"
    return Image("apache/kafka:4.1.0", (9092,), environment | {"KAFKA_HEAP_OPTS": "-Xms256m -Xmx512m"})


@dataclass(frozen=True)
class Kafka:
    """Kafka by a folder of jars."""

    jars: Path = Path()
    name = "kafka"
    ports = 2  # broker, controller
    ending = signal.SIGTERM
    as_root = True

    def prepare(self, folder: Path, ports: list[int]) -> list[list[str]]:
        configuration = CONFIGURATION.format(broker=ports[0], controller=ports[1], folder=folder)
        (folder / "server.properties").write_text(configuration)
        tool = self._java("kafka.tools.StorageTool")
        return [[*tool, "format", f"--cluster-id={CLUSTER}", f"--config={folder}/server.properties"]]

    def command(self, folder: Path, ports: list[int]) -> list[str]:
        return [*self._java("kafka.Kafka"), f"{folder}/server.properties"]

    def environment(self, folder: Path, ports: list[int]) -> Mapping[str, str]:
        return {}

    def url(self, ports: list[int]) -> str:
        return f"kafka://127.0.0.1:{ports[0]}"

    def check(self, ports: list[int]) -> None:
        # Its client logs an error for each call that nobody takes.
        socket.create_connection(("127.0.0.1", ports[0]), timeout=3).close()
        in_thread(_list_topics(f"127.0.0.1:{ports[0]}"))

    def _java(self, main: str) -> list[str]:
        return ["java", *HEAP, *LOG, "-cp", f"{self.jars}/*", main]


async def _list_topics(bootstrap: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=3000)
    try:
        await client.start()
        await client.list_topics()
    finally:
        await client.close()


def installed() -> Kafka | None:
    """Return the Kafka whose jars are in the cache or which Maven puts there; nothing without Java 17 and Maven."""
    if java_version() < OLDEST_JAVA:
        return None
    jars = cache_folder() / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    with exclusive(jars):
        if not jars.exists():
            if shutil.which("mvn") is None:
                return None
            resolve(jars)
    return Kafka(jars)


def java_version() -> int:
    """Return the major version of the Java on the PATH, or 0 without one."""
    if shutil.which("java") is None:
        return 0
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


def resolve(jars: Path) -> None:
    """Have Maven put Kafka and all that it needs into a folder."""
    with tempfile.TemporaryDirectory(dir=jars.parent) as folder:
        made = Path(folder, "jars")
        options = ["--batch-mode", "--quiet", f"--file={POM}", f"-DoutputDirectory={made}", "-DincludeScope=runtime"]
        run("mvn", *options, "dependency:copy-dependencies", environment=dict(os.environ))
        made.rename(jars)


if __name__ == "__main__":
    if installed() is None:
        raise SystemExit(
            f"Kafka needs Java {OLDEST_JAVA} or newer and Maven (Debian: apt install default-jdk-headless maven)"
        )
