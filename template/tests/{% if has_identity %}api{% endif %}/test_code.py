"""Authorization code with PKCE: the whole way, and each way to cheat."""

from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet

from ..conftest import CALLBACK, VERIFIER, World, query_of


async def id_claims(world: World, tokens: dict[str, Any]) -> dict[str, Any]:
    keys = KeySet.import_key_set((await world.http.get("/jwks")).json())
    return jwt.decode(tokens["id_token"], keys, ["ES256"]).claims


async def test_a_login_becomes_tokens(world: World) -> None:
    tokens = await world.tokens()
    claims = await id_claims(world, tokens)
    assert (claims["iss"], claims["aud"], claims["sub"]) == (world.issuer, world.shop["id"], world.user["id"])
    assert (claims["nonce"], claims["amr"]) == ("n-1", ["pwd"])
    assert tokens["token_type"] == "Bearer"
    assert tokens["scope"] == "account email openid orders:read orders:write profile"


async def test_userinfo_tells_what_the_scopes_allow(world: World) -> None:
    told = []
    for scope in ("openid", "openid profile email"):
        tokens = await world.tokens(scope=scope)
        told.append((await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))).json())
    identity = {"sub": world.user["id"]}
    assert told == [
        identity,
        identity | {"name": "Ada", "roles": ["clerk"], "email": "ada@example.com", "email_verified": False},
    ]


async def test_without_openid_there_is_no_id_token_and_no_userinfo(world: World) -> None:
    tokens = await world.tokens(scope="orders:read")
    assert "id_token" not in tokens
    response = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
    assert response.status_code == 403


async def test_the_answer_names_state_and_issuer(world: World) -> None:
    await world.code()
    answer = query_of((await world.authorize(state="s p&=")).headers["location"])
    assert (answer["state"], answer["iss"]) == ("s p&=", world.issuer)


async def test_who_is_logged_in_is_not_asked_again(world: World) -> None:
    await world.code()
    assert (await world.authorize()).status_code == 303


async def test_a_code_that_comes_twice_revokes_what_it_became(world: World) -> None:
    code = await world.code()
    tokens = (await world.exchange(code)).json()
    replayed = await world.exchange(code)
    assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_grant")
    assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
    assert userinfo.status_code == 401
    assert "code.replayed" in await world.events()


async def test_a_wrong_exchange_is_refused(world: World) -> None:
    wrong = [
        ("code_verifier", "x" * 43),
        ("code_verifier", ""),
        ("redirect_uri", "https://shop.example.com/other"),
        ("redirect_uri", ""),
        ("code", "made-up"),
        ("code", ""),
    ]
    for parameter, value in wrong:
        response = await world.exchange(await world.code(), **{parameter: value})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_grant"), (parameter, value)


async def test_a_wrong_exchange_uses_the_code_up(world: World) -> None:
    code = await world.code()
    await world.exchange(code, code_verifier="x" * 43)
    assert (await world.exchange(code)).json()["error"] == "invalid_grant"


async def test_a_code_is_for_the_client_that_asked(world: World) -> None:
    code = await world.code()
    world.shop = await world.register(name="Other shop")
    assert (await world.exchange(code)).json()["error"] == "invalid_grant"


async def test_pkce_cannot_be_left_out_or_weakened(world: World) -> None:
    wrong: list[dict[str, Any]] = [{"code_challenge": None}, {"code_challenge_method": "plain"}]
    for changes in wrong:
        answer = query_of((await world.authorize(**changes)).headers["location"])
        assert (answer["error"], answer["state"], answer["iss"]) == ("invalid_request", "xyz", world.issuer), changes


async def test_nothing_is_sent_where_client_or_redirect_uri_is_wrong(world: World) -> None:
    wrong: list[dict[str, Any]] = [
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": f"{CALLBACK}/"},
        {"redirect_uri": None},
        {"client_id": "nobody"},
        {"client_id": None},
        {"client_id": "bootstrap"},
    ]
    for changes in wrong:
        response = await world.authorize(**changes)
        assert (response.status_code, "location" in response.headers) == (400, False), changes


async def test_a_parameter_that_comes_twice_is_refused(world: World) -> None:
    response = await world.http.get(f"/authorize?client_id={world.shop['id']}&client_id=x")
    assert response.status_code == 400


async def test_the_request_may_come_as_a_form(world: World) -> None:
    response = await world.http.post("/authorize", data={"client_id": "a b", "scope": "openid"})
    assert response.headers["location"] == "/authorize?client_id=a+b&scope=openid"


async def test_without_a_login_a_silent_request_is_told_so(world: World) -> None:
    answer = query_of((await world.authorize(prompt="none")).headers["location"])
    assert answer["error"] == "login_required"


async def test_a_client_can_ask_for_a_fresh_login(world: World) -> None:
    await world.code()
    page = await world.authorize(prompt="login")
    assert page.status_code == 200
    assert "code" in query_of((await world.log_in(page)).headers["location"])


async def test_an_untrusted_client_needs_consent_once(world: World) -> None:
    world.shop = await world.register(name="<b>Stranger</b>", trusted=False)
    page = await world.log_in(await world.authorize())
    assert "&lt;b&gt;Stranger&lt;/b&gt;" in page.text
    assert "use your permission orders:write" in page.text
    answer = query_of((await world.submit(page, decision="allow")).headers["location"])
    assert (await world.exchange(answer["code"])).status_code == 200
    assert (await world.authorize()).status_code == 303
    assert "consent.given" in await world.events()


async def test_consent_can_be_refused(world: World) -> None:
    world.shop = await world.register(trusted=False)
    page = await world.log_in(await world.authorize())
    answer = query_of((await world.submit(page, decision="deny")).headers["location"])
    assert (answer["error"], answer["state"]) == ("access_denied", "xyz")


async def test_a_silent_request_is_told_that_consent_is_missing(world: World) -> None:
    await world.code()
    world.shop = await world.register(trusted=False)
    answer = query_of((await world.authorize(prompt="none")).headers["location"])
    assert answer["error"] == "consent_required"


async def test_a_user_cannot_give_what_the_user_may_not_do(world: World) -> None:
    await world.http.put("/v1/roles/clerk", json={"permissions": ["orders:read"]}, headers=world.bearer())
    assert (await world.tokens())["scope"] == "account email openid orders:read profile"


async def test_a_public_client_proves_itself_by_pkce_alone(world: World) -> None:
    world.shop = await world.register(confidential=False)
    code = await world.code()
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        "client_id": world.shop["id"],
    }
    assert world.shop["secret"] == ""
    assert (await world.http.post("/token", data=form)).status_code == 200


async def test_tokens_are_for_the_services_of_the_client(world: World) -> None:
    world.shop = await world.register(audiences=["orders"])
    tokens = await world.tokens(scope="orders:read")
    keys = KeySet.import_key_set((await world.http.get("/jwks")).json())
    assert jwt.decode(tokens["access_token"], keys, ["ES256"]).claims["aud"] == ["orders"]
