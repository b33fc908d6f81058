"""Logging in: what is told and what is not, lockout, cookies, pages that others cannot abuse."""

import re

import pytest
from httpx2 import Response

from ..conftest import EMAIL, PASSWORD, World, query_of


def told(page: Response) -> str:
    """Return the page without what differs each time, and without the address that was typed."""
    return re.sub(r'value="[^"]*"', "", page.text)


async def test_what_was_wrong_is_not_told(world: World) -> None:
    page = await world.authorize()
    wrong = await world.log_in(page, password="wrong password")
    assert wrong.status_code == 400
    for email, password in (("nobody@example.com", PASSWORD), ("", ""), ("x" * 5000, "x")):
        response = await world.log_in(page, email=email, password=password)
        assert (response.status_code, told(response)) == (400, told(wrong)), email
        assert "session" not in response.headers.get("set-cookie", "")


async def test_a_disabled_user_is_told_the_same(world: World) -> None:
    page = await world.authorize()
    wrong = await world.log_in(page, password="wrong password")
    await world.http.patch(f"/v1/users/{world.user['id']}", json={"disabled": True}, headers=world.bearer())
    assert told(await world.log_in(page)) == told(wrong)


async def test_the_address_is_compared_without_regard_to_case(world: World) -> None:
    page = await world.authorize()
    assert (await world.log_in(page, email=" ADA@Example.COM ")).status_code == 303


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
async def test_who_guesses_has_to_wait_whether_or_not_there_is_such_a_user(world: World, email: str) -> None:
    page = await world.authorize()
    answers = [await world.log_in(page, email=email, password="wrong password") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 429]
    assert answers[-1].headers["retry-after"] == "2"


async def test_even_the_right_password_has_to_wait(world: World) -> None:
    page = await world.authorize()
    for _ in range(4):
        await world.log_in(page, password="wrong password")
    assert (await world.log_in(page)).status_code == 429


async def test_success_forgets_the_failures(world: World) -> None:
    page = await world.authorize()
    for _ in range(3):
        for _ in range(2):
            await world.log_in(page, password="wrong password")
        assert (await world.log_in(page)).status_code == 303


async def test_each_failure_is_an_event_that_holds_no_secret(world: World) -> None:
    await world.log_in(await world.authorize(), password="hunter2hunter2")
    response = await world.http.get("/v1/audit", headers=world.bearer())
    assert response.json()["items"][0]["event"] == "login.failed"
    assert response.json()["items"][0]["subject"] == world.user["id"]
    assert response.json()["items"][0]["address"] == "127.0.0.1"
    assert "hunter2" not in response.text


async def test_the_session_cookie_is_kept_from_scripts_and_other_sites(world: World) -> None:
    response = await world.submit(await world.authorize(), email=EMAIL, password=PASSWORD)
    [cookie] = [text for text in response.headers.get_list("set-cookie") if text.startswith("session=")]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie


async def test_a_login_makes_a_new_session_and_ends_the_one_before(world: World) -> None:
    await world.code()
    before = world.http.cookies["session"]
    await world.log_in(await world.authorize(prompt="login"))
    after = world.http.cookies["session"]
    assert after != before
    world.http.cookies.clear()
    world.http.cookies.set("session", before)
    assert (await world.authorize()).status_code == 200


async def test_pages_forbid_scripts_frames_and_caching(world: World) -> None:
    page = await world.authorize()
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://shop.example.com;" in policy
    assert "script" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"


async def test_a_form_of_another_page_is_refused(world: World) -> None:
    page = await world.authorize()
    response = await world.submit(page, email=EMAIL, password=PASSWORD, csrf="made-up")
    assert response.status_code == 400
    assert "session" not in world.http.cookies


async def test_a_form_without_its_cookie_is_refused(world: World) -> None:
    page = await world.authorize()
    world.http.cookies.clear()
    assert (await world.log_in(page)).status_code == 400


async def test_a_form_that_another_site_sends_is_refused(world: World) -> None:
    page = await world.authorize()
    world.http.headers["sec-fetch-site"] = "cross-site"
    assert (await world.log_in(page)).status_code == 400


async def test_a_login_leads_nowhere_else(world: World) -> None:
    page = await world.authorize()
    for query in ("", "client_id=nobody", "https://evil.example/", "//evil.example"):
        response = await world.submit(page, email=EMAIL, password=PASSWORD, query=query)
        assert (response.status_code, "location" in response.headers) == (400, False), query


async def test_what_a_user_types_is_escaped(world: World) -> None:
    page = await world.log_in(await world.authorize(), email='"><script>alert(1)</script>')
    assert "<script>" not in page.text


async def test_logging_out_ends_the_session_and_what_was_allowed_in_it(world: World) -> None:
    tokens = await world.tokens()
    page = await world.http.get("/logout")
    assert (await world.submit(page)).status_code == 200
    assert (await world.authorize()).status_code == 200
    assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_a_disabled_user_is_logged_out_everywhere(world: World) -> None:
    tokens = await world.tokens()
    await world.http.patch(f"/v1/users/{world.user['id']}", json={"disabled": True}, headers=world.bearer())
    assert (await world.authorize()).status_code == 200
    assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
    assert userinfo.status_code == 401


async def test_a_code_of_a_user_who_was_disabled_meanwhile_is_worth_nothing(world: World) -> None:
    code = await world.code()
    await world.http.patch(f"/v1/users/{world.user['id']}", json={"disabled": True}, headers=world.bearer())
    assert (await world.exchange(code)).json()["error"] == "invalid_grant"


async def test_an_error_goes_back_with_the_state(world: World) -> None:
    answer = query_of((await world.authorize(scope="openid admin")).headers["location"])
    assert (answer["error"], answer["state"], answer["iss"]) == ("invalid_scope", "xyz", world.issuer)
