"""How long servers live: as long as somebody uses them, and no longer than pytest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.servers import redis
from tests.servers.contained import server_for
from tests.servers.fixtures import find, session_server
from tests.servers.requirement import missing
from tests.servers.server import Server, hold

ROOT = Path(__file__).resolve().parents[2]
USER = """
import sys
from pathlib import Path
from tests.servers import redis
from tests.servers.contained import server_for
from tests.servers.fixtures import find, session_server
from tests.servers.sharing import shared

redis = find("Redis")
with shared(redis, Path(sys.argv[1])) as ports:
    print(redis.url(ports), flush=True)
    sys.stdin.read()
"""


def eventually(true: Callable[[], object]) -> None:
    """Wait until it is true."""
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture
def users(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that share a Redis, as workers do."""
    find("Redis")
    command = [sys.executable, "-c", USER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    started = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    yield started
    for user in started:
        user.kill()
        user.communicate()


def first_line(user: subprocess.Popen[str]) -> str:
    assert user.stdout
    return user.stdout.readline().strip()


def listens(url: str) -> bool:
    port = int(url.rpartition(":")[2].partition("/")[0])
    return any(
        each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN
        for each in psutil.net_connections("tcp")
    )


def test_workers_share_one_server_until_the_last_has_gone(users: list[subprocess.Popen[str]]) -> None:
    (url,) = {first_line(user) for user in users}
    for user in users[:-1]:
        user.communicate()
        assert listens(url)

    users[-1].communicate()

    eventually(lambda: not listens(url))


def test_killed_workers_leave_nothing_behind(users: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    (url,) = {first_line(user) for user in users}
    folder = Path(json.loads((tmp_path / "redis.json").read_text())["folder"])

    for user in users:
        user.send_signal(signal.SIGKILL)

    eventually(lambda: not listens(url))
    eventually(lambda: not folder.exists())


def test_who_comes_after_the_last_has_gone_gets_a_new_server(tmp_path: Path) -> None:
    with session_server("Redis", tmp_path) as first:
        pass
    with session_server("Redis", tmp_path) as second:
        assert listens(second)
    eventually(lambda: not listens(first) and not listens(second))


def test_a_closed_server_is_gone_with_its_folder(redis_server: Server) -> None:
    own = server_for(redis_server.software).start()
    own.close()

    assert not own.folder.exists()
    assert not listens(own.url)
    with pytest.raises(OSError):  # noqa: PT011 - whichever it is
        hold(own.folder)


def test_a_server_that_cannot_start_says_why(redis_server: Server) -> None:
    software = redis.installed()
    if software is None:
        missing("redis-server is not on this machine")
    other = Server(software)
    software.prepare(other.folder, redis_server.ports)

    with pytest.raises(RuntimeError, match="Address already in use"):
        other.start()
    other.close()


def test_what_is_missing_fails_where_nothing_may_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARTY_REQUIRE", "all")
    with pytest.raises(pytest.fail.Exception, match="MARTY_REQUIRE=all, but no server"):
        missing("no server")


def test_what_is_missing_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARTY_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no server"):
        missing("no server")


def test_the_server_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARTY_TEST_REDIS_URL", "redis://elsewhere:6379/0")
    with session_server("Redis", tmp_path) as url:
        assert url == "redis://elsewhere:6379/0"
    assert not list(tmp_path.iterdir())
