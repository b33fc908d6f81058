"""The endpoints for clients and services: metadata, client credentials, introspection, revocation."""

from typing import Any

from ..conftest import World

ROBOT = {"grants": ["client_credentials"], "redirect_uris": [], "scopes": ["orders:read"], "audiences": ["orders"]}


async def test_the_metadata_name_every_endpoint_that_is_there(world: World) -> None:
    document = (await world.http.get("/.well-known/openid-configuration")).json()
    assert (await world.http.get("/.well-known/oauth-authorization-server")).json() == document
    assert document["issuer"] == world.issuer
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["id_token_signing_alg_values_supported"] == ["ES256"]
    for key, address in document.items():
        if key.endswith(("_endpoint", "_uri")):
            path = address.removeprefix(world.issuer)
            assert (await world.http.get(path)).status_code != 404, key


async def test_published_keys_hold_nothing_private(world: World) -> None:
    [key] = (await world.http.get("/jwks")).json()["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}


async def test_a_client_acts_for_itself(world: World) -> None:
    robot = await world.register(**ROBOT)
    answer = await world.token(robot, grant_type="client_credentials")
    assert (answer.json()["scope"], answer.json()["expires_in"]) == ("orders:read", 300)
    assert "refresh_token" not in answer.json()
    assert answer.headers["cache-control"] == "no-store"


async def test_a_secret_may_stand_in_the_body(world: World) -> None:
    robot = await world.register(**ROBOT)
    form = {"grant_type": "client_credentials", "client_id": robot["id"], "client_secret": robot["secret"]}
    assert (await world.http.post("/token", data=form)).status_code == 200


async def test_but_not_in_two_places(world: World) -> None:
    robot = await world.register(**ROBOT)
    answer = await world.token(robot, grant_type="client_credentials", client_secret=robot["secret"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_wrong_client_is_refused(world: World) -> None:
    robot = await world.register(**ROBOT)
    for changes in ({"secret": "wrong"}, {"secret": ""}, {"id": "nobody"}):
        answer = await world.token(robot | changes, grant_type="client_credentials")
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), changes
        assert answer.headers["www-authenticate"].startswith("Basic")


async def test_a_confidential_client_must_not_leave_its_secret_out(world: World) -> None:
    robot = await world.register(**ROBOT)
    form = {"grant_type": "client_credentials", "client_id": robot["id"]}
    assert (await world.http.post("/token", data=form)).status_code == 401


async def test_what_a_client_may_not_do_is_refused(world: World) -> None:
    robot = await world.register(**ROBOT)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"grant_type": "password", "username": "ada", "password": "x"}, "unsupported_grant_type"),
        ({"scope": "orders:read"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, "unauthorized_client"),
        ({"grant_type": "client_credentials", "scope": "orders:write"}, "invalid_scope"),
    ]
    for form, error in wrong:
        answer = await world.token(robot, **form)
        assert (answer.status_code, answer.json()["error"]) == (400, error), form


async def test_what_is_no_form_is_refused(world: World) -> None:
    wrong = [
        (b'{"grant_type": "client_credentials"}', "application/json"),
        (b"grant_type=client_credentials&grant_type=x", "application/x-www-form-urlencoded"),
        (b"grant_type=\xff", "application/x-www-form-urlencoded"),
        (b"grant_type=%ff", "application/x-www-form-urlencoded"),
    ]
    for content, kind in wrong:
        answer = await world.http.post("/token", content=content, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), content


async def test_credentials_that_cannot_be_read_are_refused(world: World) -> None:
    for header in ("Basic !!!", "Basic YQ==", "Basic", "Digest x", "Bearer x"):
        answer = await world.http.post("/token", data={"grant_type": "x"}, headers={"authorization": header})
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), header


class TestIntrospection:
    async def ask(self, world: World, token: str, client: dict[str, Any] | None = None) -> dict[str, Any]:
        client = client or world.shop
        answer = await world.http.post("/introspect", data={"token": token}, auth=(client["id"], client["secret"]))
        assert answer.status_code == 200
        return dict(answer.json())

    async def test_an_access_token_is_active(self, world: World) -> None:
        found = await self.ask(world, (await world.tokens())["access_token"])
        assert (found["active"], found["sub"], found["client_id"]) == (True, world.user["id"], world.shop["id"])

    async def test_a_refresh_token_is_active_for_its_client_only(self, world: World) -> None:
        token = (await world.tokens())["refresh_token"]
        assert (await self.ask(world, token))["active"] is True
        assert await self.ask(world, token, await world.register(**ROBOT)) == {"active": False}
        await world.refresh(token)
        assert await self.ask(world, token) == {"active": False}

    async def test_what_is_no_token_is_not_active(self, world: World) -> None:
        for token in ("", "nonsense", "a.b.c"):
            assert await self.ask(world, token) == {"active": False}

    async def test_an_id_token_is_no_access_token(self, world: World) -> None:
        tokens = await world.tokens()
        assert await self.ask(world, tokens["id_token"]) == {"active": False}
        userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["id_token"]))
        assert userinfo.status_code == 401

    async def test_a_public_client_may_not_ask(self, world: World) -> None:
        public = await world.register(confidential=False)
        answer = await world.http.post("/introspect", data={"token": "x", "client_id": public["id"]})
        assert answer.status_code == 401


class TestRevocation:
    async def revoke(self, world: World, token: str, client: dict[str, Any] | None = None) -> None:
        client = client or world.shop
        answer = await world.http.post("/revoke", data={"token": token}, auth=(client["id"], client["secret"]))
        assert answer.status_code == 200

    async def test_a_revoked_refresh_token_takes_its_family_along(self, world: World) -> None:
        tokens = await world.tokens()
        await self.revoke(world, tokens["refresh_token"])
        assert (await world.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
        userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
        assert (userinfo.status_code, userinfo.json()["code"]) == (401, "invalid-token")

    async def test_a_revoked_access_token_is_refused_here_at_once(self, world: World) -> None:
        tokens = await world.tokens()
        await self.revoke(world, tokens["access_token"])
        userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
        assert userinfo.status_code == 401
        assert (await world.refresh(tokens["refresh_token"])).status_code == 200

    async def test_another_client_revokes_nothing(self, world: World) -> None:
        tokens = await world.tokens()
        other = await world.register(**ROBOT)
        for name in ("access_token", "refresh_token"):
            await self.revoke(world, tokens[name], other)
        userinfo = await world.http.get("/userinfo", headers=world.bearer(tokens["access_token"]))
        assert userinfo.status_code == 200
        assert (await world.refresh(tokens["refresh_token"])).status_code == 200

    async def test_what_is_no_token_is_no_error(self, world: World) -> None:
        for token in ("", "nonsense"):
            await self.revoke(world, token)
