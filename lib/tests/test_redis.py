"""The Redis client: settings, in process and on a server, and what an outage of either sort does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import pytest
from marty_lib import App, Embedded, SettingsError, StartError, Unavailable, settings
from marty_lib.redis import Redis, RedisDown, RedisSettings, needed
from prometheus_client import REGISTRY
from pydantic import SecretStr
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TooLate

Soon = Callable[[Callable[[], object]], Awaitable[None]]
Connect = Callable[..., Redis]


class Settings(settings.ServiceSettings):
    redis: RedisSettings = RedisSettings()


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """A function that returns a Redis; patient, for the machine may be busy."""
    made = []

    def make(url: str = "memory://", *, timeout: float = 10.0, **rest: Any) -> Redis:
        redis = Redis(RedisSettings.model_validate({"url": url, "timeout": timeout, **rest}))
        made.append(redis)
        return redis

    yield make
    for redis in made:
        await redis.stop()


@pytest.fixture(params=["embedded", "server"])
def any_redis(request: pytest.FixtureRequest, connect: Connect) -> Redis:
    """In process, and on a server."""
    return connect("memory://" if request.param == "embedded" else request.getfixturevalue("redis_url"))


async def test_commands_pipelines_and_scripts_work(any_redis: Redis) -> None:
    client = any_redis.client
    assert await client.set("a", "1")
    async with client.pipeline() as pipe:
        pipe.incr("a")
        pipe.get("a")
        assert await pipe.execute() == [2, b"2"]
    script = client.register_script("return redis.call('get', KEYS[1])")
    assert await script(keys=["a"]) == b"2"
    assert any_redis.up


async def test_two_that_are_embedded_share_nothing(connect: Connect) -> None:
    one, other = connect(), connect()
    await one.client.set("a", "1")
    assert await other.client.get("a") is None


async def test_an_error_of_the_caller_is_no_outage(any_redis: Redis) -> None:
    await any_redis.client.set("a", "text")
    with pytest.raises(ResponseError):
        await any_redis.client.incr("a")
    assert any_redis.up


async def test_keys_begin_with_the_prefix(connect: Connect) -> None:
    assert connect(prefix="orders").key("cache", "1") == "orders:cache:1"
    assert connect().key("cache", "1") == "cache:1"


async def test_commands_are_timed(connect: Connect) -> None:
    before = sample("redis_command_duration_seconds_count", command="STRLEN")
    await connect().client.strlen("a")
    assert sample("redis_command_duration_seconds_count", command="STRLEN") == before + 1


async def test_a_hung_server_costs_one_time_out_and_then_nothing(connect: Connect, faulty_server: Any) -> None:
    async with faulty_server("hang") as server:
        redis = connect(f"redis://127.0.0.1:{server.port}", timeout=0.05)
        with pytest.raises(TooLate):
            await redis.client.get("a")
        assert not redis.up
        with pytest.raises(RedisDown):
            await redis.client.get("a")
        async with redis.client.pipeline() as pipe:
            pipe.get("a")
            with pytest.raises(RedisDown):
                await pipe.execute()
    assert sample("redis_up") == 0


@pytest.mark.parametrize("fault", ["reset", "garbage"])
async def test_a_broken_server_is_an_outage(connect: Connect, faulty_server: Any, fault: str) -> None:
    async with faulty_server(fault) as server:
        redis = connect(f"redis://127.0.0.1:{server.port}")
        with pytest.raises(RedisError):
            await redis.client.get("a")
        assert not redis.up


async def test_those_who_wait_for_a_turn_learn_of_the_outage(connect: Connect, faulty_server: Any) -> None:
    async with faulty_server("hang") as server:
        redis = connect(f"redis://127.0.0.1:{server.port}", timeout=0.05, pool_size=1)
        results = await asyncio.gather(*(redis.client.get("a") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, RedisError) for result in results)
        assert server.connections <= 2  # one command's and the probe's


async def test_more_commands_than_connections_wait_for_their_turn(any_redis: Redis, connect: Connect) -> None:
    results = await asyncio.gather(*(any_redis.client.incr("a") for _ in range(200)))
    assert sorted(results) == list(range(1, 201))
    assert sample("redis_pool_connections_in_use") == 0


async def test_those_who_get_together_share_a_round_trip(any_redis: Redis) -> None:
    await any_redis.client.mset({"a": "1", "b": "2"})
    before = sample("redis_command_duration_seconds_count", command="MGET")
    found = await asyncio.gather(*(any_redis.get(key) for key in "abc"))
    assert found == [b"1", b"2", None]
    assert sample("redis_command_duration_seconds_count", command="MGET") == before + 1


async def test_those_who_get_together_share_its_failure(connect: Connect, free_port: int) -> None:
    redis = connect(f"redis://127.0.0.1:{free_port}")
    found = await asyncio.gather(*(redis.get(key) for key in "abc"), return_exceptions=True)
    assert [isinstance(error, RedisError) for error in found] == [True] * 3


async def test_a_server_that_comes_back_is_used_again(connect: Connect, redis_server: Any, soon: Soon) -> None:
    redis = connect(redis_server.url, timeout=2.0)
    await redis.client.set("a", "1")
    redis_server.kill()
    with pytest.raises(RedisError):
        await redis.client.get("a")
    assert not redis.up
    redis_server.start()
    await soon(lambda: redis.up)
    assert await redis.client.get("a") == b"1"


async def test_a_server_that_goes_on_is_used_again(connect: Connect, redis_server: Any, soon: Soon) -> None:
    redis = connect(redis_server.url, timeout=2.0)
    await redis.client.set("a", "1")
    redis_server.pause()
    with pytest.raises(TooLate):
        await redis.client.get("a")
    redis_server.resume()
    await soon(lambda: redis.up)
    assert await redis.client.get("a") == b"1"


async def test_a_server_that_is_down_keeps_nobody_from_starting(connect: Connect, free_port: int) -> None:
    redis = connect(f"redis://127.0.0.1:{free_port}")
    await redis.start()
    with pytest.raises(RedisError):
        await redis.check()


async def test_a_wrong_password_keeps_the_service_from_starting(connect: Connect, redis_server: Any) -> None:
    redis = connect(f"redis://:hunter2@127.0.0.1:{redis_server.port}")
    with pytest.raises(StartError, match="REDIS_URL") as caught:
        await redis.start()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("required", "ready"), [(True, False), (False, True)])
async def test_an_outage_is_shown_in_readiness(
    make_app: Callable[..., App], connect: Connect, free_port: int, required: bool, ready: bool
) -> None:
    app = make_app()
    app.add(Redis(RedisSettings.model_validate({"url": f"redis://127.0.0.1:{free_port}"}), required=required))
    await app.start()
    is_ready, body = await app.health.ready()
    await app.stop()
    assert is_ready is ready
    assert body["checks"]["redis"] == {"up": False, "required": required, "reason": "ConnectionError"}


async def test_what_needs_redis_is_unavailable_without_it(connect: Connect, free_port: int) -> None:
    redis = connect(f"redis://127.0.0.1:{free_port}")
    with pytest.raises(Unavailable) as caught, needed():
        await redis.client.get("a")
    assert caught.value.headers["Retry-After"]


def test_production_refuses_the_embedded_one_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SettingsError) as caught:
        settings.load(Settings)
    assert [name for name, _ in caught.value.wrong] == ["REDIS_URL"]

    monkeypatch.setenv("ALLOW_EMBEDDED", "true")
    assert settings.load(Settings).redis.url.get_secret_value() == "memory://"


def test_the_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss://me:hunter2@cache.example:6380/1?password=hunter2")
    loaded = settings.load(Settings)
    assert settings.dump(loaded)["REDIS_URL"] == "rediss://me:***@cache.example:6380/1"
    assert "hunter2" not in f"{loaded!r} {loaded} {settings.reference(loaded)} {loaded.model_dump_json()}"


@pytest.mark.parametrize("url", ["http://hunter2", "localhost:6379", ""])
def test_a_url_of_another_kind_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError, match="redis://") as caught:
        settings.load(Settings)
    assert "REDIS_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_url_whose_port_is_no_number_is_refused() -> None:
    with pytest.raises(StartError, match="REDIS_URL"):
        Redis(RedisSettings.model_validate({"url": "redis://cache.example:port"}))


def test_a_secret_that_is_a_default_is_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(settings.ServiceSettings):
        key: SecretStr = SecretStr("changeme")
        place: Annotated[str, Embedded("here", "Go there")] = "there"

    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SettingsError, match="KEY"):
        settings.load(Other)
