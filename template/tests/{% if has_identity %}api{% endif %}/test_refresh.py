"""Refresh tokens: each is good once, and a thief is noticed."""

import asyncio

from joserfc import jwt
from joserfc.jwk import KeySet
from marty_lib import App, Database
from prometheus_client import REGISTRY
from sqlalchemy import text

from ..conftest import World


async def test_each_refresh_gives_new_tokens(world: World) -> None:
    first = await world.tokens()
    second = (await world.refresh(first["refresh_token"])).json()
    third = (await world.refresh(second["refresh_token"])).json()
    assert len({tokens["refresh_token"] for tokens in (first, second, third)}) == 3
    assert third["scope"] == first["scope"]


async def test_a_token_that_comes_twice_revokes_the_whole_family(world: World) -> None:
    first = await world.tokens()
    second = (await world.refresh(first["refresh_token"])).json()
    assert (await world.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await world.refresh(second["refresh_token"])).json()["error"] == "invalid_grant"
    assert "token.reused" in await world.events()
    assert REGISTRY.get_sample_value("audit_events_total", {"event": "token.reused"})


async def test_of_many_at_once_one_wins_and_the_family_is_revoked(world: World) -> None:
    first = await world.tokens()
    answers = await asyncio.gather(*(world.refresh(first["refresh_token"]) for _ in range(5)))
    won = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(won) <= 1
    for tokens in won:
        assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_refresh_can_narrow_the_scope_and_not_widen_it(world: World) -> None:
    first = await world.tokens(scope="openid orders:read")
    narrow = (await world.refresh(first["refresh_token"], scope="orders:read")).json()
    assert narrow["scope"] == "orders:read"
    wide = await world.refresh(narrow["refresh_token"], scope="orders:read orders:write")
    assert (wide.status_code, wide.json()["error"]) == (400, "invalid_scope")


async def test_a_refused_scope_does_not_use_the_token_up(world: World) -> None:
    first = await world.tokens(scope="orders:read")
    await world.refresh(first["refresh_token"], scope="orders:write")
    assert (await world.refresh(first["refresh_token"])).status_code == 200


async def test_a_role_that_was_taken_away_is_gone_at_the_next_refresh(world: World) -> None:
    first = await world.tokens(scope="openid orders:write")
    await world.http.patch(f"/v1/users/{world.user['id']}", json={"roles": []}, headers=world.bearer())
    second = (await world.refresh(first["refresh_token"])).json()
    assert second["scope"] == "openid"
    keys = KeySet.import_key_set((await world.http.get("/jwks")).json())
    assert jwt.decode(second["access_token"], keys, ["ES256"]).claims["roles"] == []


async def test_a_token_is_for_its_client(world: World) -> None:
    first = await world.tokens()
    world.shop = await world.register(name="Other shop")
    assert (await world.refresh(first["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_client_without_the_grant_gets_no_refresh_token(world: World) -> None:
    world.shop = await world.register(grants=["authorization_code"])
    assert "refresh_token" not in await world.tokens()


async def test_nothing_kept_works_as_a_token(world: World, app: App) -> None:
    tokens = await world.tokens()
    [database] = [part for part in app.components if isinstance(part, Database)]
    async with database.transaction() as session:
        names = ["users", "clients", "sessions", "refresh_tokens", "signing_keys", "audit_events"]
        kept = [str(row) for name in names for row in await session.execute(text(f"SELECT * FROM {name}"))]
    secrets = [tokens["refresh_token"], tokens["access_token"], world.shop["secret"], world.http.cookies["session"]]
    assert not [secret for secret in secrets if secret in "\n".join(kept)]
