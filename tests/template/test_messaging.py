"""Events while processes are killed and brokers stop: none is lost, none counts twice, each key keeps its order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from marty_lib import Database, DatabaseSettings
from marty_lib.db import Base
from marty_lib.outbox import Outbox
from marty_lib.settings import SecretUrl
from marty_lib.testing import ServiceProcess

from tests.servers.server import Server
from tests.template.messaging_service import PLACED, Placed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("messaging")]

MESSAGES = 10_000
KEYS = 50
OUTAGE = 10.0
DEADLINE = 300.0
BROKERS = ("kafka", "rabbitmq", "redis")


class Member(ServiceProcess):
    """A process of the service."""

    def kill(self) -> None:
        """End it as the kernel does: it learns nothing of it."""
        self.process.kill()
        self.process.wait()

    def checks(self) -> dict[str, bool]:
        """Return what readiness says of each part."""
        with contextlib.suppress(OSError):
            try:
                answer = urllib.request.urlopen(f"{self.ops}/health/ready", timeout=5)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                return {name: check["up"] for name, check in json.load(answer)["checks"].items()}
        return {}


class Stage:
    """A database with outbox and inbox, a broker, and members of the service."""

    def __init__(self, database_url: str, events_url: str, prefix: str, stack: contextlib.ExitStack) -> None:
        self.database_url = database_url
        self.environment = {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DATABASE_URL": database_url,
            "EVENTS_URL": events_url,
            "EVENTS_PREFIX": prefix,
            "EVENTS_PARTITIONS": "4",
            "EVENTS_RETRY_DELAYS": "0.2,1,1",
        }
        self._stack = stack
        self.run(self._create)

    def start(self, role: str, **environment: str) -> Member:
        """Start a member and return it when it is ready."""
        member = Member("tests.template.messaging_service", ROLE=role, **(self.environment | environment))
        self._stack.callback(member.close)
        member.wait_ready(60)
        return member

    def run(self, work: Callable[[Database], Awaitable[Any]]) -> Any:
        """Run `work` on the database."""

        async def connected() -> Any:
            database = Database(DatabaseSettings(url=SecretUrl(self.database_url)))
            await database.start()
            try:
                return await work(database)
            finally:
                await database.stop()

        return asyncio.run(connected())

    async def _create(self, database: Database) -> None:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    def add(self, numbers: Sequence[int]) -> None:
        """Have events published, a transaction for each hundred."""

        async def work(database: Database) -> None:
            outbox = Outbox(database)
            for first in range(0, len(numbers), 100):
                batch = numbers[first : first + 100]
                async with database.transaction():
                    await outbox.add(*(PLACED.event(Placed(number=n), key=f"c{n % KEYS}") for n in batch))

        self.run(work)

    def query(self, statement: str) -> list[Any]:
        """Return the rows of a statement."""

        async def work() -> list[Any]:
            connection = await asyncpg.connect(self.database_url.replace("+asyncpg", ""), ssl=False)
            try:
                return list(await connection.fetch(statement))
            finally:
                await connection.close()

        return asyncio.run(work())

    def handled(self) -> int:
        """Return how many events have had their effect."""
        return int(self.query("SELECT count(*) FROM handled")[0][0])

    def has_handled(self, count: int) -> bool:
        """Return whether so many events have had their effect."""
        return self.handled() >= count

    def has_sent(self, count: int) -> bool:
        """Return whether the relay has published so many events."""
        [[sent]] = self.query("SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL")
        return bool(sent >= count)

    def by_key(self) -> dict[str, list[int]]:
        """Return the numbers of each key in the order of their effects."""
        found: dict[str, list[int]] = {}
        for key, number in self.query("SELECT key, number FROM handled ORDER BY id"):
            found.setdefault(key, []).append(number)
        return found


def expected(messages: int) -> dict[str, list[int]]:
    return {f"c{key}": list(range(key, messages, KEYS)) for key in range(KEYS)}


def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Poll until the condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture
def staged(postgresql_url: str, topic_prefix: str) -> Iterator[Callable[[str], Stage]]:
    """A function that returns a stage on the broker of a URL."""
    with contextlib.ExitStack() as stack:
        yield lambda url: Stage(postgresql_url, url, topic_prefix, stack)


@pytest.mark.parametrize("broker", BROKERS)
def test_killed_relays_and_consumers_lose_no_message_and_keep_the_order(
    broker: str, staged: Callable[[str], Stage], request: pytest.FixtureRequest
) -> None:
    stage = staged(request.getfixturevalue(f"{broker}_url"))
    stage.add(range(MESSAGES))
    consumers = [stage.start("consumer") for _ in range(2)]
    relays = [stage.start("relay") for _ in range(2)]

    for few in (2000, 4000, 6000):
        until(partial(stage.has_sent, few))
        relays.pop(0).kill()
        until(partial(stage.has_handled, few // 2))
        consumers.pop(0).kill()
        relays.append(stage.start("relay"))
        consumers.append(stage.start("consumer"))

    until(lambda: stage.handled() >= MESSAGES)
    assert stage.by_key() == expected(MESSAGES)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_broker_that_stops_for_a_while_costs_nothing_but_the_time(
    broker: str, staged: Callable[[str], Stage], request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(f"{broker}_server")
    stage = staged(server.url)
    member = stage.start("consumer relay")
    until(lambda: all(member.checks().values()))
    added = 0

    def load(seconds: float) -> None:
        nonlocal added
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            stage.add(range(added, added + 100))
            added += 100
            time.sleep(0.4)  # a load that one process can carry: what has gathered must be handled after the outage

    load(2)
    server.kill()
    load(OUTAGE)
    until(lambda: member.checks().get("events") is False)
    assert member.checks()["database"]
    server.start()
    load(2)

    until(lambda: stage.handled() >= added)
    until(lambda: all(member.checks().values()))
    assert stage.by_key() == expected(added)
    assert member.process.poll() is None
    member.terminate()
    assert member.wait() == 0


@pytest.mark.parametrize("broker", BROKERS)
def test_sigterm_finishes_the_message_in_flight_and_commits_exactly_that(
    broker: str, staged: Callable[[str], Stage], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    stage = staged(request.getfixturevalue(f"{broker}_url"))
    first = stage.start("consumer relay", HOLD=str(tmp_path / "go"), EVENTS_CONCURRENCY="1")
    stage.add([0, KEYS, 2 * KEYS])
    until(lambda: "handler.began" in first.output())

    first.terminate()
    until(lambda: "service.stopping" in first.output())
    assert first.process.poll() is None
    (tmp_path / "go").touch()
    assert first.wait() == 0
    assert first.output().count("handler.began") == stage.handled()

    second = stage.start("consumer relay", HOLD=str(tmp_path / "go"))
    until(lambda: stage.handled() == 3)
    assert stage.by_key() == {"c0": [0, KEYS, 2 * KEYS]}
    assert second.output().count("handler.began") == 3 - first.output().count("handler.began")
