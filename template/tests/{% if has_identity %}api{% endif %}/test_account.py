"""What users do with their own account."""

from uuid import uuid4

from ..conftest import EMAIL, PASSWORD, World


async def test_sessions_are_listed_and_can_be_ended(world: World) -> None:
    phone = (await world.tokens())["refresh_token"]
    world.http.cookies.clear()
    tokens = await world.tokens()
    headers = world.bearer(tokens["access_token"])
    listed = (await world.http.get("/v1/account/sessions", headers=headers)).json()
    assert [session["current"] for session in listed] == [True, False]
    assert listed[0]["address"] == "127.0.0.1"
    assert "python" in listed[0]["agent"]
    assert listed[0]["expires_at"] > listed[0]["created_at"]
    ended = await world.http.delete(f"/v1/account/sessions/{listed[1]['id']}", headers=headers)
    assert ended.status_code == 204
    assert (await world.refresh(phone)).json()["error"] == "invalid_grant"
    assert (await world.refresh(tokens["refresh_token"])).status_code == 200


async def test_nobody_ends_the_sessions_of_others(world: World) -> None:
    mine = world.bearer((await world.tokens())["access_token"])
    [session] = (await world.http.get("/v1/account/sessions", headers=mine)).json()
    await world.create("bob@example.com")
    world.http.cookies.clear()
    page = await world.log_in(await world.authorize(scope="account"), email="bob@example.com")
    code = page.headers["location"].split("code=")[1].split("&")[0]
    theirs = world.bearer((await world.exchange(code)).json()["access_token"])
    for session_id in (session["id"], uuid4()):
        response = await world.http.delete(f"/v1/account/sessions/{session_id}", headers=theirs)
        assert (response.status_code, response.json()["code"]) == (404, "session-not-found")


async def test_a_changed_password_ends_every_session(world: World) -> None:
    tokens = await world.tokens()
    change = {"current": PASSWORD, "new": "another good password"}
    headers = world.bearer(tokens["access_token"])
    assert (await world.http.post("/v1/account/password", json=change, headers=headers)).status_code == 204
    assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    page = await world.authorize()
    assert (await world.log_in(page)).status_code == 400
    assert (await world.log_in(page, password="another good password")).status_code == 303


async def test_a_password_is_not_changed_just_so(world: World) -> None:
    headers = world.bearer((await world.tokens())["access_token"])
    wrong = [
        ({"current": "wrong password", "new": "another good password"}, 401, "wrong-credentials"),
        ({"current": PASSWORD, "new": "short"}, 422, "weak-password"),
        ({"current": PASSWORD, "new": EMAIL}, 422, "weak-password"),
    ]
    for change, status, code in wrong:
        response = await world.http.post("/v1/account/password", json=change, headers=headers)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert change["new"] not in response.text


async def test_who_guesses_the_current_password_has_to_wait(world: World) -> None:
    headers = world.bearer((await world.tokens())["access_token"])
    change = {"current": "wrong password", "new": "another good password"}
    answers = [await world.http.post("/v1/account/password", json=change, headers=headers) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [401] * 6 + [429]


async def test_a_token_without_the_scope_is_refused(world: World) -> None:
    headers = world.bearer((await world.tokens(scope="openid"))["access_token"])
    assert (await world.http.get("/v1/account/sessions", headers=headers)).status_code == 403
