"""What events on Kafka cost: publishing and consuming by aiokafka alone, and by the library."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from . import report
from .environment import ROOT, environment
from .plan import Plan
from .report import Figures
from .servers import SERVER_CPU, memory_of, step
from .setting import Setting, pinned

SHOWN = ("aiokafka", "pydantic", "uvloop")
PARTITIONS = 8
ROWS = {
    "aiokafka publishes": ("bare", "publish"),
    "service publishes": ("service", "publish"),
    "aiokafka publishes hundreds": ("bare", "relay"),
    "service publishes hundreds": ("service", "relay"),
    "aiokafka consumes": ("bare", "consume"),
    "service consumes": ("service", "consume"),
}


def measure(setting: Setting, plan: Plan) -> str:
    """Return the report."""
    bootstrap = setting.server("Kafka").address
    topics = {name: name.replace(" ", "-") for name in ROWS}
    asyncio.run(make(bootstrap, list(topics.values())))
    step(f"Starting {len(ROWS)} processes, which take turns in {plan.rounds} rounds")
    with ExitStack() as stack, pinned():
        folder = setting.made("events")
        workers = {name: Worker(setting.python, folder, bootstrap, topics[name], *ROWS[name]) for name in ROWS}
        for worker in workers.values():
            stack.callback(worker.stop)
        figures = take_turns(workers, plan)
    kept = asyncio.run(ends(bootstrap, list(topics.values())))
    wanted = {topic: plan.first + plan.rounds * count(plan, name) for name, topic in topics.items()}
    if kept != wanted:
        raise SystemExit(f"bench: the broker has not what was published: {kept} instead of {wanted}")
    goals = report.goal(figures, "service publishes", "aiokafka publishes", 0.80)
    goals += report.goal(figures, "service publishes hundreds", "aiokafka publishes hundreds", 0.80)
    goals += report.goal(figures, "service consumes", "aiokafka consumes", 0.70)
    rounds = f"- Median and, in brackets, least and most of {plan.rounds} rounds.\n"
    made_by = report.provenance("events", setting.python, SHOWN)
    return f"{report.table(figures, 'messages/s')}\n{goals}{rounds}\n{made_by}"


class Worker:
    """A process that publishes or consumes when it is told how many."""

    def __init__(self, python: Path, folder: Path, bootstrap: str, topic: str, side: str, what: str) -> None:
        self.output = folder / f"{topic}.log"
        self.process = subprocess.Popen(
            [python, "-m", "tests.bench.apps.messages", side, what],
            cwd=ROOT,
            env=environment(KAFKA_BOOTSTRAP=bootstrap, TOPIC=topic),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.output.open("w"),
            text=True,
        )
        os.sched_setaffinity(self.process.pid, {SERVER_CPU})
        self._line()

    def __call__(self, messages: int) -> dict[str, float]:
        """Have it handle so many; return what it saw."""
        assert self.process.stdin is not None
        print(messages, file=self.process.stdin, flush=True)
        seen: dict[str, float] = json.loads(self._line())
        return seen

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {self.output.stem} failed:\n{self.output.read_text()[-2000:]}")
        return line

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def take_turns(workers: dict[str, Worker], plan: Plan) -> list[Figures]:
    """Have the workers take turns; return what was seen."""
    figures = [Figures(name) for name in workers]
    for worker, row in zip(workers.values(), figures, strict=True):
        worker(plan.first)
        row.memory = memory_of(worker.process.pid)
    for _ in range(plan.rounds):
        for (name, worker), row in zip(workers.items(), figures, strict=True):
            row.rounds.append(worker(count(plan, name)))
    return figures


def count(plan: Plan, row: str) -> int:
    """Return how many messages a row handles in a round."""
    return plan.backlog if ROWS[row][1] == "consume" else plan.messages


async def make(bootstrap: str, topics: list[str]) -> None:
    """Make the topics, as the library would."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        await client.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
    finally:
        await client.close()


async def ends(bootstrap: str, topics: list[str]) -> dict[str, int]:
    """Return how many messages each topic has."""
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        found = await consumer.end_offsets(partitions)
    finally:
        await consumer.stop()
    return {topic: sum(end for partition, end in found.items() if partition.topic == topic) for topic in topics}
