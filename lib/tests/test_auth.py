"""Access tokens: which are accepted, which are refused and why, and who is let in by it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from marty_lib import (
    App,
    AuthSettings,
    Bearer,
    Forbidden,
    HttpSettings,
    Principal,
    StartError,
    Unauthenticated,
    Verifier,
    context,
    create_api,
    require,
)
from marty_lib._issuer import AUDIENCE, Issuer
from prometheus_client import REGISTRY
from pydantic import ValidationError

Client = Callable[[Any], httpx2.AsyncClient]
FORBIDDEN_ALGORITHMS = ["none", "HS256", "ES256K", "RS256,HS256", "nonsense", "", ","]


@pytest.fixture
async def make_verifier(issuer: Issuer) -> AsyncIterator[Callable[..., Verifier]]:
    """A function that returns a verifier of the issuer's tokens; settings are given by name."""
    made = []

    def make(now: Callable[[], float] = time.time, **settings: Any) -> Verifier:
        made.append(Verifier(issuer.settings(**settings), now=now))
        return made[-1]

    yield make
    for verifier in made:
        await verifier.stop()


@pytest.fixture
def verifier(make_verifier: Callable[..., Verifier]) -> Verifier:
    """A verifier of the issuer's tokens, with the settings' defaults."""
    return make_verifier()


def outcomes(outcome: str) -> float:
    return REGISTRY.get_sample_value("auth_tokens_total", {"outcome": outcome}) or 0.0


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None = None) -> str:
    """Return a token made by hand; without a secret its signature is empty."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest() if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


async def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    assert caught.value.code == "invalid-token"
    assert caught.value.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"')
    return caught.value.detail


class TestAccepted:
    async def test_a_token_stands_for_its_subject(self, issuer: Issuer, verifier: Verifier) -> None:
        principal = await verifier.verify(issuer.token("orders:read", "orders:write", roles=["admin"]))

        assert principal == Principal("ada", "shop", frozenset({"orders:read", "orders:write"}), frozenset({"admin"}))
        assert principal.claims["iss"] == issuer.url

    @pytest.mark.parametrize(
        ("settings", "claims"),
        [
            ({}, {"scp": ["orders:write"]}),
            ({}, {"permissions": ["orders:write"]}),
            ({"permission_claims": "realm.grants"}, {"realm": {"grants": "orders:write"}}),
        ],
    )
    async def test_permissions_come_from_the_claims_that_issuers_use(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier], settings: Any, claims: Any
    ) -> None:
        principal = await make_verifier(**settings).verify(issuer.token(**claims))

        assert principal.permissions == {"orders:write"}

    @pytest.mark.parametrize("claims", [{"permissions": {"a": 1}}, {"scp": [1, None]}, {"roles": 7}, {"scope": None}])
    async def test_claims_of_another_shape_permit_nothing(
        self, issuer: Issuer, verifier: Verifier, claims: dict[str, Any]
    ) -> None:
        principal = await verifier.verify(issuer.token(**claims))

        assert (principal.permissions, principal.roles) == (frozenset(), frozenset())

    @pytest.mark.parametrize("types", ["at+jwt", "application/AT+JWT", "JWT"])
    async def test_usual_types_are_taken(self, issuer: Issuer, verifier: Verifier, types: str) -> None:
        assert (await verifier.verify(issuer.token(header={"typ": types}))).subject == "ada"

    @pytest.mark.parametrize(
        ("algorithm", "key"),
        [
            ("RS256", RSAKey.generate_key(2048, auto_kid=True)),
            ("PS256", RSAKey.generate_key(2048, auto_kid=True)),
            ("ES384", ECKey.generate_key("P-384", auto_kid=True)),
            ("Ed25519", OKPKey.generate_key("Ed25519", auto_kid=True)),
        ],
    )
    async def test_each_usual_signature_is_verified(
        self, issuer: Issuer, verifier: Verifier, algorithm: str, key: Any
    ) -> None:
        claims, issuer.keys = claims_of(issuer.token()), [*issuer.keys, key]
        token = jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, [algorithm])

        assert (await verifier.verify(token)).subject == "ada"

    @pytest.mark.parametrize("audience", [AUDIENCE, ["other", AUDIENCE]])
    async def test_one_of_the_audiences_is_enough(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier], audience: Any
    ) -> None:
        assert await make_verifier(audience=f"orders, {AUDIENCE}").verify(issuer.token(aud=audience))

    async def test_a_token_without_a_key_id_fits_the_only_key(self, issuer: Issuer, verifier: Verifier) -> None:
        key = issuer.keys[0]

        assert await verifier.verify(jwt.encode({"alg": "ES256"}, claims_of(issuer.token()), key))

    @pytest.mark.parametrize("claims", [{"exp": -20}, {"nbf": 20}, {"iat": 20}])
    async def test_clocks_may_differ_by_the_leeway(
        self, issuer: Issuer, verifier: Verifier, claims: dict[str, Any]
    ) -> None:
        moment = int(time.time())

        assert await verifier.verify(issuer.token(**{name: moment + by for name, by in claims.items()}))


class TestRefused:
    @pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
    async def test_an_unsigned_token(self, issuer: Issuer, verifier: Verifier, algorithm: str) -> None:
        token = forged({"alg": algorithm, "kid": issuer.keys[0].kid}, claims_of(issuer.token()))

        assert "signed in a way" in await refusal(verifier, token)

    @pytest.mark.parametrize("form", ["pem", "der", "jwk"])
    async def test_a_token_whose_hmac_secret_is_the_public_key(
        self, issuer: Issuer, verifier: Verifier, form: str
    ) -> None:
        key = RSAKey.generate_key(2048, auto_kid=True)
        issuer.keys.append(key)
        public = RSAKey.import_key(key.as_dict(private=False))
        secret = {"pem": public.as_pem(), "der": public.as_der(), "jwk": json.dumps(public.as_dict()).encode()}[form]
        token = forged({"alg": "HS256", "kid": key.kid}, claims_of(issuer.token()), secret)

        assert "signed in a way" in await refusal(verifier, token)

    async def test_an_hmac_token_even_where_the_issuer_publishes_its_secret(
        self, issuer: Issuer, verifier: Verifier
    ) -> None:
        secret = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
        issuer.metadata = {"jwks_uri": f"{issuer.url}/jwks"}
        issuer.published = [{"kty": "oct", "k": secret, "kid": "shared"}]
        token = forged({"alg": "HS256", "kid": "shared"}, claims_of(issuer.token()), b"s" * 32)

        assert "signed in a way" in await refusal(verifier, token)

    async def test_an_algorithm_that_does_not_fit_the_key(self, issuer: Issuer, verifier: Verifier) -> None:
        key = RSAKey.generate_key(2048, auto_kid=True)
        token = jwt.encode({"alg": "RS256", "kid": issuer.keys[0].kid}, claims_of(issuer.token()), key)

        assert "does not have" in await refusal(verifier, token)

    async def test_an_algorithm_that_is_not_accepted_here(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier]
    ) -> None:
        assert "signed in a way" in await refusal(make_verifier(algorithms="RS256"), issuer.token())

    async def test_a_key_that_the_token_brings_along(self, issuer: Issuer, verifier: Verifier) -> None:
        own = ECKey.generate_key("P-256", auto_kid=True)
        header = {"alg": "ES256", "kid": issuer.keys[0].kid, "jwk": own.as_dict(private=False)}

        assert "signature" in await refusal(verifier, jwt.encode(header, claims_of(issuer.token()), own))

    async def test_a_key_from_where_the_token_says(self, issuer: Issuer, verifier: Verifier) -> None:
        async with Issuer() as own:
            header = {"jku": f"{own.url}/jwks", "x5u": f"{own.url}/jwks"}

            assert "does not have" in await refusal(verifier, own.token(header=header, iss=issuer.url))
            assert own.fetches == 0

    @pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "", "x" * 1000, "\x00"])
    async def test_a_key_id_is_only_ever_compared(self, issuer: Issuer, verifier: Verifier, kid: str) -> None:
        assert "does not have" in await refusal(verifier, issuer.token(header={"kid": kid}))

    async def test_a_token_whose_signature_was_changed(self, issuer: Issuer, verifier: Verifier) -> None:
        head, payload, signature = issuer.token().split(".")
        swapped = ("A" if signature[0] != "A" else "B") + signature[1:]

        assert "signature" in await refusal(verifier, f"{head}.{payload}.{swapped}")

    async def test_a_token_whose_claims_were_changed(self, issuer: Issuer, verifier: Verifier) -> None:
        head, payload, signature = issuer.token().split(".")
        other = issuer.token("orders:write").split(".")[1]

        assert other != payload
        assert "signature" in await refusal(verifier, f"{head}.{other}.{signature}")

    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"exp": -31}, "expired"),
            ({"nbf": 40}, "nbf"),
            ({"iat": 40}, "iat"),
        ],
    )
    async def test_a_token_out_of_its_time(
        self, issuer: Issuer, verifier: Verifier, claims: dict[str, Any], reason: str
    ) -> None:
        moment = int(time.time())
        token = issuer.token(**{name: moment + by for name, by in claims.items()})

        assert reason in await refusal(verifier, token)

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": "tomorrow"},
            {"exp": float("nan")},
            {"exp": float("inf")},
            {"exp": True},
            {"aud": "other"},
            {"aud": ["other"]},
            {"aud": [AUDIENCE, 7]},
            {"aud": {AUDIENCE: 1}},
            {"iss": "https://elsewhere.example"},
            {"sub": 7},
            {"sub": ""},
        ],
    )
    async def test_a_claim_that_is_wrong(self, issuer: Issuer, verifier: Verifier, claims: dict[str, Any]) -> None:
        [name] = claims

        assert f"The token's {name} is not" in await refusal(verifier, issuer.token(**claims))

    @pytest.mark.parametrize("name", ["exp", "sub", "iss", "aud", "jti"])
    async def test_a_claim_that_is_missing(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier], name: str
    ) -> None:
        claims: dict[str, Any] = {"jti": "1", name: None}
        token = issuer.token(**claims)

        assert await refusal(make_verifier(required_claims="jti"), token) == f"The token lacks {name}."

    @pytest.mark.parametrize("name", ["dpop+jwt", "logout+jwt", "secevent+jwt", "JWE", 7])
    async def test_a_token_of_another_type(self, issuer: Issuer, verifier: Verifier, name: Any) -> None:
        claims, key = claims_of(issuer.token()), issuer.keys[0]
        header = {"alg": "ES256", "kid": key.kid, "typ": name}
        if isinstance(name, str):
            assert "type" in await refusal(verifier, jwt.encode(header, claims, key))
        else:
            assert "no token" in await refusal(verifier, forged(header, claims, b"secret"))

    async def test_a_token_that_asks_for_what_is_not_understood(self, issuer: Issuer, verifier: Verifier) -> None:
        header = {"alg": "ES256", "kid": issuer.keys[0].kid, "crit": ["exp"], "exp": 1}

        assert "no token" in await refusal(verifier, forged(header, claims_of(issuer.token()), b"secret"))

    async def test_a_token_that_is_too_long(self, issuer: Issuer, verifier: Verifier) -> None:
        assert "too long" in await refusal(verifier, issuer.token(note="x" * 8192))
        assert issuer.fetches == 0

    @pytest.mark.parametrize(
        "token",
        [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c",
            "a.b.c.d.e",
            "é.ü.ß",
            "\udcff",
            "W10.W10.",
            "W1tbW10.e30.",
            "MQ.MQ.MQ",
            "bnVsbA..",
        ],
    )
    async def test_what_is_no_token(self, verifier: Verifier, token: str) -> None:
        assert "no token" in await refusal(verifier, token)

    @pytest.mark.parametrize("payload", [b"[]", b"7", b"null", b"\xff", b'"a"', b"[" * 5000])
    async def test_signed_claims_that_are_no_object(self, issuer: Issuer, verifier: Verifier, payload: bytes) -> None:
        from joserfc import jws

        key = issuer.keys[0]
        token = jws.serialize_compact({"alg": "ES256", "kid": key.kid}, payload, key)

        assert await refusal(verifier, token) in ("This is no token.", "The token lacks aud,exp,iss,sub.")

    async def test_deeply_nested_json_in_the_header(self, verifier: Verifier) -> None:
        head = base64.urlsafe_b64encode(b"[" * 4000).rstrip(b"=").decode()

        assert "no token" in await refusal(verifier, f"{head}.e30.AA")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c"]), inner, max_size=5)
        ),
        max_leaves=10,
    ),
    rest=st.text(alphabet="AQgwe30W10.-_", max_size=20),
)
async def test_no_header_whatever_is_more_than_a_refusal(issuer: Issuer, header: Any, rest: str) -> None:
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    verifier = Verifier(issuer.settings())
    with pytest.raises(Unauthenticated):
        await verifier.verify(f"{head}.{rest}")
    await verifier.stop()


class TestRemembered:
    async def test_a_hot_token_is_verified_once(self, issuer: Issuer, verifier: Verifier) -> None:
        token, before = issuer.token(), outcomes("remembered")
        first = await verifier.verify(token)

        assert await verifier.verify(token) is first
        assert outcomes("remembered") == before + 1

    async def test_a_token_is_not_remembered_beyond_its_end(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier]
    ) -> None:
        moment = time.time()
        verifier = make_verifier(now=lambda: moment, leeway=0, cache_seconds=3600)
        token = issuer.token(exp=int(moment) + 10)
        await verifier.verify(token)
        moment += 10

        assert "expired" in await refusal(verifier, token)

    async def test_what_a_withdrawn_key_has_signed_is_forgotten(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier]
    ) -> None:
        verifier = make_verifier(keys_pause=0)
        token = issuer.token()
        await verifier.verify(token)
        issuer.rotate()
        await verifier.verify(issuer.token())

        assert "does not have" in await refusal(verifier, token)

    @pytest.mark.parametrize("size", [0, 3])
    async def test_no_more_tokens_are_remembered_than_the_settings_say(
        self, issuer: Issuer, make_verifier: Callable[..., Verifier], size: int
    ) -> None:
        verifier = make_verifier(cache_size=size)
        tokens = [issuer.token(jti=str(number)) for number in range(5)]
        for token in tokens:
            await verifier.verify(token)
        before = outcomes("remembered")
        for token in reversed(tokens):
            await verifier.verify(token)

        assert outcomes("remembered") - before == size


class TestAuthenticate:
    async def test_the_scheme_is_compared_without_regard_to_case(self, issuer: Issuer, verifier: Verifier) -> None:
        assert (await verifier.authenticate(f"bEARER {issuer.token()}")).subject == "ada"

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "token"])
    async def test_without_a_bearer_token_the_challenge_names_no_error(self, verifier: Verifier, header: str) -> None:
        with pytest.raises(Unauthenticated) as caught:
            await verifier.authenticate(header)

        assert caught.value.headers == {"WWW-Authenticate": "Bearer"}

    async def test_no_token_reaches_the_log(self, issuer: Issuer, verifier: Verifier, logs: Any) -> None:
        token = issuer.token()
        await verifier.authenticate(f"Bearer {token}")
        await refusal(verifier, token[:-4] + "AAAA")

        assert token.split(".")[2][:20] not in logs.text


class TestSettings:
    @pytest.mark.parametrize("name", ["issuer", "audience"])
    def test_a_verifier_must_know_whose_tokens_and_for_whom(self, name: str) -> None:
        with pytest.raises(StartError, match=f"AUTH_{name.upper()} is empty"):
            Verifier(AuthSettings(issuer="https://i.example", audience="orders").model_copy(update={name: ""}))

    @pytest.mark.parametrize("names", FORBIDDEN_ALGORITHMS)
    def test_only_public_key_signatures_can_be_accepted(self, names: str) -> None:
        with pytest.raises(ValidationError, match="must name some of ES256"):
            AuthSettings(algorithms=names)


class TestRequire:
    async def test_it_returns_the_caller(self) -> None:
        ada = Principal("ada", permissions=frozenset({"orders:read", "orders:write"}), roles=frozenset({"clerk"}))
        with context.use(context.new()._replace(principal=ada)):
            assert await require("orders:write", roles=("admin", "clerk"))() is ada

    @pytest.mark.parametrize("principal", [None, "ada"])
    async def test_it_refuses_a_caller_that_nobody_knows(self, principal: object) -> None:
        with context.use(context.new()._replace(principal=principal)), pytest.raises(Unauthenticated):
            await require()()

    async def test_it_refuses_outside_of_any_request(self) -> None:
        with pytest.raises(Unauthenticated):
            await require()()

    async def test_it_says_which_permission_is_missing(self) -> None:
        ada = Principal("ada", permissions=frozenset({"orders:read"}))
        with context.use(context.new()._replace(principal=ada)), pytest.raises(Forbidden) as caught:
            await require("orders:read", "orders:write")()

        assert caught.value.detail == "This needs the permission orders:write."
        challenge = 'Bearer error="insufficient_scope", scope="orders:read orders:write"'
        assert caught.value.headers["WWW-Authenticate"] == challenge

    async def test_it_says_which_role_is_missing(self) -> None:
        with context.use(context.new()._replace(principal=Principal("ada"))), pytest.raises(Forbidden, match="admin"):
            await require(roles=("admin",))()


class TestOverHttp:
    @pytest.fixture
    def api(self, make_app: Callable[..., App], verifier: Verifier) -> Any:
        api = create_api(make_app(), HttpSettings(), title="Orders")
        routes = APIRouter(prefix="/v1", dependencies=[Depends(Bearer(verifier.authenticate))])

        @routes.get("/open")
        async def anybody() -> str:
            current = context.current()
            assert current is not None
            return repr(current.principal)

        @routes.post("/orders")
        async def place(caller: Annotated[Principal, Depends(require("orders:write"))]) -> str:
            return caller.subject

        @routes.get("/sync")
        def in_a_thread(caller: Annotated[Principal, Depends(require())]) -> bool:
            current = context.current()
            return current is not None and current.principal is caller

        api.include_router(routes)
        return api

    async def test_the_caller_is_let_in(self, issuer: Issuer, api: Any, client: Client) -> None:
        headers = {"authorization": f"Bearer {issuer.token('orders:write')}"}

        assert (await client(api).post("/v1/orders", headers=headers)).json() == "ada"
        assert (await client(api).get("/v1/sync", headers=headers)).json() is True

    async def test_without_a_token_the_answer_is_401(self, api: Any, client: Client) -> None:
        response = await client(api).post("/v1/orders")

        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"

    async def test_a_route_that_requires_nothing_is_open(self, api: Any, client: Client) -> None:
        assert (await client(api).get("/v1/open")).json() == "None"

    async def test_a_wrong_token_is_refused_even_there(self, api: Any, client: Client) -> None:
        response = await client(api).get("/v1/open", headers={"authorization": "Bearer nonsense"})

        assert (response.status_code, response.json()["code"]) == (401, "invalid-token")

    async def test_without_the_permission_the_answer_is_403(self, issuer: Issuer, api: Any, client: Client) -> None:
        headers = {"authorization": f"Bearer {issuer.token('orders:read')}"}
        response = await client(api).post("/v1/orders", headers=headers)

        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]

    async def test_one_request_leaves_no_principal_to_the_next(self, issuer: Issuer, api: Any, client: Client) -> None:
        await client(api).get("/v1/open", headers={"authorization": f"Bearer {issuer.token()}"})

        assert (await client(api).get("/v1/open")).json() == "None"

    def test_the_scheme_stands_in_the_openapi_document(self, api: Any) -> None:
        document = api.openapi()
        [(name, scheme)] = document["components"]["securitySchemes"].items()

        assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")
        assert document["paths"]["/v1/orders"]["post"]["security"] == [{name: []}]
