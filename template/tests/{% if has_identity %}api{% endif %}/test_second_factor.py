"""The second factor: added by its user, asked for at the login, good once."""

import base64
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from httpx2 import Response

from ..conftest import World, query_of


def code_of(secret: str, *, steps: int = 0) -> str:
    """Return the code of an authenticator app, some steps of time from now."""
    totp = TOTP(base64.b32decode(secret), 6, SHA1(), 30)
    return totp.generate(time.time() + 30 * steps).decode()


async def add(world: World, token: str) -> tuple[str, list[str]]:
    """Add a second factor; return its secret and the recovery codes."""
    headers = world.bearer(token)
    begun = (await world.http.post("/v1/account/second-factor", headers=headers)).json()
    code = {"code": code_of(begun["secret"], steps=-1)}
    confirmed = await world.http.post("/v1/account/second-factor/confirm", json=code, headers=headers)
    assert confirmed.status_code == 200, confirmed.text
    return begun["secret"], confirmed.json()["codes"]


@pytest.fixture
async def factor(world: World) -> tuple[str, list[str]]:
    """The user's second factor; the browser is logged out."""
    found = await add(world, (await world.tokens())["access_token"])
    world.http.cookies.clear()
    return found


async def code_page(world: World) -> Response:
    page = await world.log_in(await world.authorize())
    assert page.status_code == 200
    assert "session" not in world.http.cookies
    return page


async def test_the_login_asks_for_it(world: World, factor: tuple[str, list[str]]) -> None:
    response = await world.submit(await code_page(world), code=code_of(factor[0]))
    answer = query_of((await world.http.get(response.headers["location"])).headers["location"])
    tokens = (await world.exchange(answer["code"])).json()
    payload = tokens["id_token"].split(".")[1]
    assert b'"amr":["pwd","otp","mfa"]' in base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))


async def test_a_code_is_good_once(world: World, factor: tuple[str, list[str]]) -> None:
    code = code_of(factor[0])
    assert (await world.submit(await code_page(world), code=code)).status_code == 303
    world.http.cookies.clear()
    assert (await world.submit(await code_page(world), code=code)).status_code == 400


async def test_the_code_that_confirmed_it_is_used_up(world: World, factor: tuple[str, list[str]]) -> None:
    response = await world.submit(await code_page(world), code=code_of(factor[0], steps=-1))
    assert response.status_code == 400


async def test_a_recovery_code_is_good_once(world: World, factor: tuple[str, list[str]]) -> None:
    code = factor[1][0].upper()
    assert (await world.submit(await code_page(world), code=code)).status_code == 303
    world.http.cookies.clear()
    assert (await world.submit(await code_page(world), code=code)).status_code == 400
    assert "recovery_code.used" in await world.events()


async def test_who_guesses_codes_has_to_wait(world: World, factor: tuple[str, list[str]]) -> None:
    page = await code_page(world)
    answers = [await world.submit(page, code="000000") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 429]
    assert (await world.submit(page, code=code_of(factor[0]))).status_code == 429
    assert "login.code_failed" in await world.events()


@pytest.mark.parametrize("pending", ["", "made-up"])
async def test_a_code_without_a_password_is_worth_nothing(
    world: World, factor: tuple[str, list[str]], pending: str
) -> None:
    response = await world.submit(await code_page(world), code=code_of(factor[0]), pending=pending)
    assert response.status_code == 400


async def test_it_counts_only_once_it_is_confirmed(world: World) -> None:
    token = (await world.tokens())["access_token"]
    await world.http.post("/v1/account/second-factor", headers=world.bearer(token))
    wrong = await world.http.post(
        "/v1/account/second-factor/confirm", json={"code": "000000"}, headers=world.bearer(token)
    )
    assert (wrong.status_code, wrong.json()["code"]) == (422, "wrong-code")
    world.http.cookies.clear()
    assert (await world.log_in(await world.authorize())).status_code == 303


async def test_it_cannot_be_replaced_without_a_code(world: World) -> None:
    token = (await world.tokens())["access_token"]
    secret, _ = await add(world, token)
    headers = world.bearer(token)
    assert (await world.http.post("/v1/account/second-factor", headers=headers)).status_code == 409
    remove: Any = {"url": "/v1/account/second-factor/remove", "headers": headers}
    assert (await world.http.post(**remove, json={"code": "000000"})).status_code == 422
    assert (await world.http.post(**remove, json={"code": code_of(secret)})).status_code == 204
    assert (await world.http.post("/v1/account/second-factor", headers=headers)).status_code == 200


async def test_an_administrator_can_remove_it(world: World, factor: tuple[str, list[str]]) -> None:
    address = f"/v1/users/{world.user['id']}"
    assert (await world.http.get(address, headers=world.bearer())).json()["second_factor"] is True
    await world.http.delete(f"{address}/second-factor", headers=world.bearer())
    assert (await world.log_in(await world.authorize())).status_code == 303
