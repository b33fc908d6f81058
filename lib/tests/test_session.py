"""Sessions: secret ids, two sorts of expiry, rotation, lists; changes at the same time lose nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack

import pytest
from marty_lib import Unavailable
from marty_lib.redis import Redis
from marty_lib.session import NoSession, SessionStore

from .redis_kit import connected

Cart = dict[str, int]


@pytest.fixture
def carts(redis: Redis) -> SessionStore[Cart]:
    return SessionStore(redis, "cart", Cart)


async def test_a_session_is_found_by_its_id(carts: SessionStore[Cart]) -> None:
    begun = await carts.begin({"engine": 1}, user="ada")
    assert await carts.find(begun.id) == begun
    assert begun.ends - begun.created == pytest.approx(86_400)


@pytest.mark.parametrize("session_id", ["", "unknown", "of:ada", "x" * 10_000, "é"])
async def test_an_unknown_id_is_no_session(carts: SessionStore[Cart], session_id: str) -> None:
    await carts.begin({}, user="ada")
    with pytest.raises(NoSession):
        await carts.find(session_id)


async def test_redis_knows_no_id(carts: SessionStore[Cart], redis: Redis) -> None:
    begun = await carts.begin({"engine": 1}, user="ada")
    keys = await redis.client.keys("*")
    strings = [await redis.client.get(key) for key in keys if await redis.client.type(key) == b"string"]
    assert begun.id not in f"{keys} {strings} {begun}"
    assert strings


async def test_a_session_ends_after_a_time_without_use(redis: Redis) -> None:
    carts = SessionStore(redis, "cart", Cart, idle=0.2)
    begun = await carts.begin({})
    while await redis.client.exists(f"session:cart:{begun.handle}"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with pytest.raises(NoSession):
        await carts.find(begun.id)


async def test_use_keeps_a_session(redis: Redis) -> None:
    begun = await SessionStore(redis, "cart", Cart, idle=10).begin({})
    await SessionStore(redis, "cart", Cart, idle=100).find(begun.id)
    assert 10_000 < await redis.client.pttl(f"session:cart:{begun.handle}") <= 100_000


async def test_a_session_ends_in_any_case(redis: Redis) -> None:
    begun = await SessionStore(redis, "cart", Cart, idle=100, absolute=20).begin({})
    await SessionStore(redis, "cart", Cart, idle=100).find(begun.id)
    assert 0 < await redis.client.pttl(f"session:cart:{begun.handle}") <= 20_000
    long_ago = SessionStore(redis, "cart", Cart, absolute=20, clock=lambda: time.time() - 30)
    ended = await long_ago.begin({})
    with pytest.raises(NoSession):
        await long_ago.find(ended.id)


async def test_rotation_makes_the_old_id_worthless(carts: SessionStore[Cart]) -> None:
    before = await carts.begin({"engine": 1})
    after = await carts.rotate(before.id, user="ada")
    with pytest.raises(NoSession):
        await carts.find(before.id)
    assert (await carts.find(after.id)).data == {"engine": 1}
    assert after.user == "ada"
    assert [session.handle for session in await carts.of("ada")] == [after.handle]


async def test_of_two_rotations_at_once_one_wins(carts: SessionStore[Cart]) -> None:
    begun = await carts.begin({}, user="ada")
    results = await asyncio.gather(*(carts.rotate(begun.id) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, NoSession) for result in results) == 4
    assert len(await carts.of("ada")) == 1


async def test_changes_at_the_same_time_lose_nothing(carts: SessionStore[Cart]) -> None:
    begun = await carts.begin({"engine": 0})

    def one_more(cart: Cart) -> Cart:
        return {"engine": cart["engine"] + 1}

    await asyncio.gather(*(carts.change(begun.id, one_more) for _ in range(5)))
    assert (await carts.find(begun.id)).data == {"engine": 5}


async def test_an_ended_session_is_gone(carts: SessionStore[Cart]) -> None:
    begun = await carts.begin({}, user="ada")
    await carts.end(begun.id)
    await carts.end(begun.id)
    with pytest.raises(NoSession):
        await carts.change(begun.id, lambda cart: cart)
    assert await carts.of("ada") == []


async def test_the_sessions_of_a_user_are_listed_without_their_ids(redis: Redis) -> None:
    # The machine's clock may be set back meanwhile.
    ticks = itertools.count(time.time(), 0.001)
    carts = SessionStore(redis, "cart", Cart, clock=lambda: next(ticks))
    begun = [await carts.begin({}, user="ada") for _ in range(3)]
    await carts.begin({}, user="bob")
    await carts.begin({})
    listed = await carts.of("ada")
    assert [session.handle for session in listed] == [session.handle for session in begun]
    assert {session.id for session in listed} == {""}


async def test_all_sessions_of_a_user_can_be_ended_but_one(carts: SessionStore[Cart]) -> None:
    mine, *others = [await carts.begin({}, user="ada") for _ in range(3)]
    bobs = await carts.begin({}, user="bob")
    assert await carts.end_all("ada", but=mine.id) == len(others)
    assert [session.handle for session in await carts.of("ada")] == [mine.handle]
    assert await carts.find(bobs.id)
    assert await carts.end_all("ada") == 1
    assert await carts.end_all("ada") == 0


async def test_without_redis_there_are_no_sessions(opened: AsyncExitStack, free_port: int) -> None:
    carts = SessionStore(connected(opened, f"redis://127.0.0.1:{free_port}"), "cart", Cart)
    with pytest.raises(Unavailable):
        await carts.begin({})
    with pytest.raises(Unavailable):
        await carts.find("any")
