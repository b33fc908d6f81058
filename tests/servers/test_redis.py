"""Redis as tests get it."""

from __future__ import annotations

import pytest
import redis

from tests.servers.server import Server


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=0.2, retry=None)


@pytest.mark.parametrize("_", range(2))
def test_each_test_gets_an_empty_database(redis_url: str, _: int) -> None:
    with client(redis_url) as connected:
        assert connected.dbsize() == 0
        connected.set("order", "42")


def test_it_comes_back_from_a_kill_with_what_was_answered(redis_server: Server) -> None:
    with client(redis_server.url) as connected:
        connected.set("order", "42")

        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            connected.ping()

        redis_server.start()
        assert connected.get("order") == b"42"


def test_a_paused_one_answers_once_it_goes_on(redis_server: Server) -> None:
    with client(redis_server.url) as connected:
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            connected.ping()

        redis_server.resume()
        assert connected.ping()
