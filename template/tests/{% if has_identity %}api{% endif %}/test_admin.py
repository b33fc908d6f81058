"""What administrators do, and who is none."""

from uuid import uuid4

from ..conftest import EMAIL, PASSWORD, World

ROUTES = [
    ("POST", "/v1/users"),
    ("GET", "/v1/users"),
    ("GET", f"/v1/users/{uuid4()}"),
    ("PATCH", f"/v1/users/{uuid4()}"),
    ("DELETE", f"/v1/users/{uuid4()}/sessions"),
    ("DELETE", f"/v1/users/{uuid4()}/second-factor"),
    ("PUT", "/v1/roles/admin"),
    ("GET", "/v1/roles"),
    ("POST", "/v1/clients"),
    ("GET", "/v1/clients"),
    ("DELETE", "/v1/clients/shop"),
    ("POST", "/v1/keys/rotate"),
    ("GET", "/v1/audit"),
]


async def test_every_route_needs_its_permission(world: World) -> None:
    user = world.bearer((await world.tokens())["access_token"])
    for method, path in ROUTES:
        assert (await world.http.request(method, path)).status_code == 401, path
        response = await world.http.request(method, path, headers=user)
        assert response.status_code == 403, path
        assert "insufficient_scope" in response.headers["www-authenticate"]


async def test_a_user_whose_role_permits_it_is_an_administrator(world: World) -> None:
    await world.http.put("/v1/roles/admin", json={"permissions": ["users:read"]}, headers=world.bearer())
    await world.http.patch(f"/v1/users/{world.user['id']}", json={"roles": ["admin"]}, headers=world.bearer())
    world.shop = await world.register(scopes=["openid", "users:read", "users:write"])
    tokens = await world.tokens(scope="openid users:read users:write")
    assert tokens["scope"] == "openid users:read"
    listed = await world.http.get("/v1/users", headers=world.bearer(tokens["access_token"]))
    assert [user["email"] for user in listed.json()["items"]] == [EMAIL]


async def test_users_are_listed_page_by_page(world: World) -> None:
    made = {(await world.create(f"user{number}@example.com"))["id"] for number in range(3)} | {world.user["id"]}
    seen: list[str] = []
    after: str | None = None
    while after or not seen:
        query = {"limit": 3} | ({"after": after} if after else {})
        page = (await world.http.get("/v1/users", params=query, headers=world.bearer())).json()
        seen += [user["id"] for user in page["items"]]
        after = page["next"]
    assert (len(seen), set(seen)) == (4, made)


async def test_an_address_belongs_to_one_user(world: World) -> None:
    new = {"email": EMAIL.upper(), "name": "Ada", "password": PASSWORD}
    response = await world.http.post("/v1/users", json=new, headers=world.bearer())
    assert (response.status_code, response.json()["code"]) == (409, "email-taken")


async def test_a_wrong_field_is_named_and_no_password_shown(world: World) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"email": "nonsense"}, "/email"),
        ({"password": "short"}, "/password"),
        ({"roles": ["king"]}, "/roles"),
        ({"admin": True}, "/admin"),
    ]
    for change, pointer in wrong:
        new = {"email": "bob@example.com", "name": "Bob", "password": PASSWORD} | change
        response = await world.http.post("/v1/users", json=new, headers=world.bearer())
        assert response.status_code == 422, change
        assert [wrong["pointer"] for wrong in response.json()["errors"]] == [pointer]
        assert str(new["password"]) not in response.text


async def test_an_unknown_user_is_a_problem(world: World) -> None:
    response = await world.http.get(f"/v1/users/{uuid4()}", headers=world.bearer())
    assert (response.status_code, response.json()["code"]) == (404, "user-not-found")


async def test_no_answer_holds_a_hash(world: World) -> None:
    texts = [(await world.http.get(f"/v1/{name}", headers=world.bearer())).text for name in ("users", "clients")]
    assert not [text for text in texts if "argon2" in text or "digest" in text or "secret" in text]


async def test_a_removed_client_is_unknown_and_its_grants_are_gone(world: World) -> None:
    tokens = await world.tokens()
    response = await world.http.delete(f"/v1/clients/{world.shop['id']}", headers=world.bearer())
    assert response.status_code == 204
    assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_client"
    assert (await world.authorize()).status_code == 400
    again = await world.http.delete(f"/v1/clients/{world.shop['id']}", headers=world.bearer())
    assert again.json()["code"] == "client-not-found"


async def test_an_administrator_ends_a_users_sessions(world: World) -> None:
    tokens = await world.tokens()
    await world.http.delete(f"/v1/users/{world.user['id']}/sessions", headers=world.bearer())
    assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_rotated_keys_overlap(world: World) -> None:
    tokens = await world.tokens()
    before = (await world.http.get("/jwks")).json()["keys"]
    await world.http.post("/v1/keys/rotate", json={"at_once": True}, headers=world.bearer())
    after = (await world.http.get("/jwks")).json()["keys"]
    assert [key["kid"] for key in after][:1] == [key["kid"] for key in before]
    assert len(after) == 2
    userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
    assert userinfo.status_code == 200


async def test_tokens_of_a_withdrawn_key_are_worth_nothing(world: World) -> None:
    tokens = await world.tokens()
    await world.http.post("/v1/keys/rotate", json={"withdraw": True}, headers=world.bearer())
    userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
    assert userinfo.status_code == 401


async def test_the_journal_is_read_page_by_page(world: World) -> None:
    seen: list[int] = []
    before: int | None = None
    while before or not seen:
        query = {"limit": 2} | ({"before": before} if before else {})
        page = (await world.http.get("/v1/audit", params=query, headers=world.bearer())).json()
        seen += [event["id"] for event in page["items"]]
        before = page["next"]
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 4
