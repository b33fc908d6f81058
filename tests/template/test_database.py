"""The rendered service on a real PostgreSQL: as a process, while the server is killed under load and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from marty_lib.testing import free_ports, status

from tests.conftest import Render, make
from tests.servers.server import Server

pytestmark = pytest.mark.slow
ORDER = {"customer": "ada", "item": "engine", "quantity": 1}
# A commit of an order for this customer fails: the constraint is looked at no sooner.
DEFERRED = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE unique_violation USING MESSAGE = 'secret rule of customer mallory'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.customer = 'mallory') EXECUTE FUNCTION refuse();
"""


class Service:
    """The service as a process on free ports."""

    def __init__(self, folder: Path, log: Path, url: str, **variables: str) -> None:
        http, ops = free_ports(2)
        self.http, self.ops, self.log = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}", log
        ports = {"HTTP_PORT": str(http), "OPS_PORT": str(ops)}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(folder / ".venv/bin/python"), "-m", "order_service"],
                env=ports | {"DATABASE_URL": url, "ENVIRONMENT": "production"} | variables,
                stdout=output,
                stderr=output,
            )

    def wait_ready(self) -> Service:
        until(lambda: self.process.poll() is not None or status(f"{self.ops}/health/ready") == 200)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def ask(self, path: str = "/v1/orders", body: dict[str, Any] | None = None) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.http + path, data=data, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response), dict(response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), {name.lower(): value for name, value in error.headers.items()}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Service]


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll until the condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def migrate(folder: Path, url: str) -> subprocess.Popen[str]:
    """Start the command that the Job runs."""
    return subprocess.Popen(
        [str(folder / ".venv/bin/python"), "-m", "order_service", "migrate"],
        env={"DATABASE_URL": url, "LOG_FORMAT": "json"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def migrated(folder: Path, url: str) -> str:
    """Run that command to its end; return the URL."""
    process = migrate(folder, url)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    return url


def execute(url: str, statement: str) -> Any:
    """Execute a statement; return the first value of a query."""

    async def work() -> Any:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""), ssl=False)
        try:
            return await connection.fetchval(statement) if "SELECT" in statement else await connection.execute(statement)
        finally:
            await connection.close()

    return asyncio.run(work())


@pytest.fixture
def folder(installed: Render) -> Path:
    """The rendered service, installed."""
    return installed(service_kind="database")


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the service on a database."""
    with contextlib.ExitStack() as stack:

        def start(url: str, **variables: str) -> Service:
            service = Service(folder, tmp_path / "log", url, **variables)
            stack.callback(service.close)
            return service

        yield start


class Load:
    """Clients that ask without a pause, each new order beside a read."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self.service = service
        self.placed: list[str] = []
        self.seen: Counter[int] = Counter()
        self.headers: dict[str, str] = {}
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        while not self._ended.is_set():
            for body in (ORDER, None):
                code, answer, headers = self.service.ask(body=body)
                self.seen[code] += 1
                if code == 201:
                    self.placed.append(answer["id"])
                elif code == 503:
                    self.headers = headers

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)


def test_its_own_tests_pass_on_postgresql(folder: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", postgresql_url)
    make(folder, "test", "PYTEST_FLAGS=-n 2")


def test_a_server_killed_under_load_costs_no_order_and_no_restart(
    folder: Path, start: Start, postgresql_server: Server
) -> None:
    migrated(folder, postgresql_server.url)
    service = start(postgresql_server.url).wait_ready()
    with Load(service) as load:
        until(lambda: load.seen[201] > 20)
        postgresql_server.kill()
        until(lambda: status(f"{service.ops}/health/ready") == 503)
        before = load.seen[503]
        until(lambda: load.seen[503] > before + 200)
        assert status(f"{service.ops}/health/live") == 200
        postgresql_server.start()
        service.wait_ready()
        before = load.seen[201]
        until(lambda: load.seen[201] > before + 20)

    assert set(load.seen) == {200, 201, 503}
    assert load.headers["content-type"] == "application/problem+json"
    assert {service.ask(f"/v1/orders/{order}")[0] for order in load.placed} == {200}
    service.process.terminate()
    assert service.process.wait(30) == 0


def test_a_commit_that_fails_is_a_500_that_shows_nothing(
    folder: Path, start: Start, postgresql_url: str
) -> None:
    migrated(folder, postgresql_url)
    execute(postgresql_url, DEFERRED)
    service = start(postgresql_url).wait_ready()
    code, body, _ = service.ask(body=ORDER | {"customer": "mallory"})

    assert (code, body["code"]) == (500, "internal")
    assert "secret rule" not in json.dumps(body)
    assert service.ask()[1]["items"] == []
    assert service.ask(body=ORDER)[0] == 201


def test_two_jobs_at_once_migrate_once(folder: Path, postgresql_url: str) -> None:
    both = [migrate(folder, postgresql_url) for _ in range(2)]
    output = [process.communicate(timeout=60)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], output
    assert sum("Running upgrade" in each for each in output) == 1
    assert execute(postgresql_url, "SELECT count(*) FROM alembic_version") == 1


def test_a_pod_that_is_there_before_the_job_waits_for_it(folder: Path, start: Start, postgresql_url: str) -> None:
    service = start(postgresql_url)
    until(lambda: "python -m order_service migrate" in service.log.read_text())
    assert status(f"{service.ops}/health/live") == 200
    assert status(f"{service.ops}/health/startup") == 503
    migrated(folder, postgresql_url)
    service.wait_ready()


def test_without_the_job_the_start_fails_and_names_the_command(start: Start, postgresql_url: str) -> None:
    service = start(postgresql_url, DATABASE_START_TIMEOUT="0.1")
    assert service.process.wait(30) == 1
    assert "run `python -m order_service migrate`" in service.log.read_text()
    assert ":marty@" not in service.log.read_text()


def test_every_page_is_read_from_an_index(folder: Path, postgresql_url: str) -> None:
    migrated(folder, postgresql_url)
    execute(
        postgresql_url,
        "INSERT INTO orders SELECT gen_random_uuid(), 'c' || n % 100, 'x', 1, now() - n * interval '1 s', 'open', 1 "
        "FROM generate_series(1, 20000) n",
    )
    execute(postgresql_url, "ANALYZE orders")
    for condition in ("", "customer = 'c7' AND ", "status = 'open' AND "):
        plan = execute(
            postgresql_url,
            "EXPLAIN (FORMAT JSON) SELECT * FROM orders WHERE "
            f"{condition}(created_at, id) < (now() - interval '9000 s', gen_random_uuid()) "
            "ORDER BY created_at DESC, id DESC LIMIT 20",
        )
        assert "Seq Scan" not in plan
        assert '"Node Type": "Sort"' not in plan
