"""Access tokens over gRPC: who is let in, who is refused and how, on real connections and in every kind of call."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any, cast

import grpc
import httpx2
import pytest
from fastapi import APIRouter, Depends
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from marty_lib import (
    App,
    Bearer,
    Forbidden,
    GrpcSettings,
    HttpSettings,
    Principal,
    Unavailable,
    Verifier,
    context,
    create_api,
    create_channel,
    require,
    serve_grpc,
)
from marty_lib._issuer import Issuer
from marty_lib.grpc import error_of
from marty_lib.testing import Clock

from .test_auth import claims_of, forged

SHOP = "shop.v1.Orders"
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
ADA = Principal("ada", "shop", frozenset({"orders:read", "orders:write"}), frozenset({"clerk"}))
RSA = RSAKey.generate_key(2048, auto_kid=True)
writer = require("orders:write")


class Orders:
    """A servicer whose calls all need `orders:write` and answer who is calling."""

    reached = 0

    async def place(self, *_: Any) -> bytes:
        return await self._who()

    async def list(self, *_: Any) -> AsyncIterator[bytes]:
        yield await self._who()

    async def sum(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        [each async for each in requests]
        return await self._who()

    async def talk(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield await self._who()

    async def _who(self) -> bytes:
        caller = await writer()
        self.reached += 1
        return repr(caller).encode()

    def register(self, server: grpc.aio.Server) -> None:
        methods = dict(zip(KINDS, (self.place, self.list, self.sum, self.talk), strict=True))
        handlers: dict[str, Any] = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(method) for kind, method in methods.items()
        }
        server.add_registered_method_handlers(SHOP, handlers)


class Shop:
    """An application with both doors, which trusts one issuer."""

    def __init__(self, app: App, verifier: Verifier) -> None:
        self.orders = Orders()
        self.api = create_api(app, HttpSettings(), title="Orders")
        routes = APIRouter(dependencies=[Depends(Bearer(verifier.authenticate))])

        @routes.get("/who")
        async def who(caller: Annotated[Principal, Depends(writer)]) -> str:
            return repr(caller)

        self.api.include_router(routes)
        settings = GrpcSettings(port=0, reflection=True)
        self.grpc = serve_grpc(app, settings, self.orders.register, authenticate=verifier.authenticate)
        app.health.started = True

    async def call(self, kind: str, *headers: str) -> str:
        """Make a call of one kind; each of `headers` is one `authorization`."""
        metadata = tuple(("authorization", header) for header in headers)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc.port}") as channel:
            method: Any = getattr(channel, kind)(f"/{SHOP}/{kind}")
            call = method(iter([b""]) if kind.startswith("stream") else b"", metadata=metadata, timeout=20)
            answers = [each async for each in call] if kind.endswith("stream") else [await call]
        return str(answers[0].decode())

    async def refusal(self, kind: str, *headers: str) -> grpc.aio.AioRpcError:
        """Return what a call fails with, which must not have reached what needs the permission."""
        before = self.orders.reached
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.call(kind, *headers)
        assert self.orders.reached == before
        return failed.value

    async def rest(self, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.api), base_url="http://orders") as client:
            return await client.get("/who", headers=headers)


@pytest.fixture
async def open_shop(make_app: Callable[..., App], issuer: Issuer) -> AsyncIterator[Callable[..., Awaitable[Shop]]]:
    """A function that runs the shop; settings of the verifier are given by name."""
    async with AsyncExitStack() as stack:

        async def start(clock: Callable[[], float] = time.monotonic, **settings: Any) -> Shop:
            verifier = Verifier(issuer.settings(**settings), clock=clock)
            shop = Shop(make_app(), verifier)
            for part in (verifier, shop.grpc):
                stack.push_async_callback(part.stop)
                await part.start()
            return shop

        yield start


@pytest.fixture
async def shop(open_shop: Callable[..., Awaitable[Shop]]) -> Shop:
    """The shop, with the settings' defaults."""
    return await open_shop()


def bearer(token: str) -> str:
    return f"Bearer {token}"


def writing(issuer: Issuer, **claims: Any) -> str:
    return bearer(issuer.token("orders:read", "orders:write", roles=["clerk"], **claims))


def rich(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the details of the rich status by their name."""
    [packed] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    found = {}
    for detail in status_pb2.Status.FromString(packed).details:
        kind = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])()
        assert detail.Unpack(kind)
        found[type(kind).__name__] = kind
    return found


def challenge(error: grpc.aio.AioRpcError) -> Any:
    return dict(error.trailing_metadata() or ())["www-authenticate"]


class TestLetIn:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_caller_is_the_same_as_over_http(self, issuer: Issuer, shop: Shop, kind: str) -> None:
        header = writing(issuer)

        assert await shop.call(kind, header) == (await shop.rest(authorization=header)).json() == repr(ADA)

    async def test_the_handler_has_the_claims(self, issuer: Issuer, make_app: Callable[..., App]) -> None:
        verifier = Verifier(issuer.settings())
        principal = await verifier.authenticate(writing(issuer, tenant="north"))
        await verifier.stop()

        assert (principal, principal.claims["tenant"]) == (ADA, "north")

    async def test_a_token_as_long_as_the_limit_is_taken_as_over_http(self, issuer: Issuer, shop: Shop) -> None:
        token = issuer.token("orders:write", note="x" * 5800)
        assert 8000 < len(token) <= 8192

        assert (await shop.rest(authorization=bearer(token))).status_code == 200
        for _ in range(20):  # grpc refuses by chance what is between its soft and its hard limit
            assert "ada" in await shop.call("unary_unary", bearer(token))

    async def test_one_call_leaves_no_caller_to_the_next_on_the_same_connection(
        self, issuer: Issuer, shop: Shop
    ) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.grpc.port}") as channel:
            place: Any = channel.unary_unary(f"/{SHOP}/unary_unary")
            await place(b"", metadata=(("authorization", writing(issuer)),))
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await place(b"")

        assert failed.value.code() == StatusCode.UNAUTHENTICATED


class TestRefused:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_without_a_token_the_call_is_unauthenticated(self, shop: Shop, kind: str) -> None:
        error = await shop.refusal(kind)

        info = rich(error)["ErrorInfo"]
        assert (error.code(), info.reason, info.domain) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "orders")
        assert (info.metadata["http_status"], challenge(error)) == ("401", "Bearer")

    @pytest.mark.parametrize("kind", KINDS)
    async def test_without_the_permission_it_is_denied(self, issuer: Issuer, shop: Shop, kind: str) -> None:
        error = await shop.refusal(kind, bearer(issuer.token("orders:read")))

        info = rich(error)["ErrorInfo"]
        assert (error.code(), info.reason) == (StatusCode.PERMISSION_DENIED, "FORBIDDEN")
        assert (error.details(), info.metadata["http_status"]) == ("This needs the permission orders:write.", "403")
        assert challenge(error) == 'Bearer error="insufficient_scope", scope="orders:write"'

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"exp": 1}, "The token has expired."),
            ({"aud": "billing"}, "The token's aud is not what is accepted here."),
            ({"iss": "https://elsewhere.example"}, "The token's iss is not what is accepted here."),
            ({"sub": None}, "The token lacks sub."),
        ],
    )
    async def test_a_token_with_a_wrong_claim(
        self, issuer: Issuer, shop: Shop, kind: str, claims: dict[str, Any], reason: str
    ) -> None:
        error = await shop.refusal(kind, writing(issuer, **claims))

        assert (error.code(), error.details()) == (StatusCode.UNAUTHENTICATED, reason)
        assert rich(error)["ErrorInfo"].reason == "INVALID_TOKEN"
        assert challenge(error) == f'Bearer error="invalid_token", error_description="{reason}"'

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("attack", ["none", "public key as secret", "own key", "wrong algorithm", "nonsense"])
    async def test_a_token_that_the_issuer_has_not_signed(
        self, issuer: Issuer, shop: Shop, kind: str, attack: str
    ) -> None:
        key, own = RSA, ECKey.generate_key("P-256", auto_kid=True)
        issuer.keys.append(key)
        claims, named = claims_of(issuer.token("orders:write")), {"kid": key.kid, "typ": "at+jwt"}
        tokens = {
            "none": forged(named | {"alg": "none"}, claims),
            "public key as secret": forged(named | {"alg": "HS256"}, claims, key.as_pem(private=False)),
            "own key": jwt.encode({"alg": "ES256", "kid": issuer.keys[0].kid}, claims, own),
            "wrong algorithm": jwt.encode({"alg": "RS512", "kid": key.kid}, claims, key, ["RS512"]),
            "nonsense": "nonsense",
        }
        error = await shop.refusal(kind, bearer(tokens[attack]))

        assert (error.code(), rich(error)["ErrorInfo"].reason) == (StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")

    async def test_two_tokens_are_none(self, issuer: Issuer, shop: Shop) -> None:
        error = await shop.refusal("unary_unary", writing(issuer), writing(issuer))

        assert (error.code(), challenge(error)) == (StatusCode.UNAUTHENTICATED, "Bearer")

    async def test_another_scheme_is_none(self, shop: Shop) -> None:
        assert (await shop.refusal("unary_unary", "Basic YTpi")).code() == StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize("permissions", [(), ("orders:read",)])
    async def test_the_error_is_the_same_as_over_http(
        self, issuer: Issuer, shop: Shop, permissions: tuple[str, ...]
    ) -> None:
        headers = {"authorization": bearer(issuer.token(*permissions))} if permissions else {}
        response = await shop.rest(**headers)
        failed = await shop.refusal("unary_unary", *headers.values())

        error, problem = error_of(failed), response.json()
        assert (error.code, error.detail, int(error.status)) == (problem["code"], problem["detail"], problem["status"])
        assert challenge(failed) == response.headers["www-authenticate"]

    async def test_a_caller_on_the_librarys_channel_gets_the_librarys_error(self, issuer: Issuer, shop: Shop) -> None:
        channel = create_channel(f"127.0.0.1:{shop.grpc.port}", name="orders")
        place: Any = channel.unary_unary(f"/{SHOP}/unary_unary")
        with pytest.raises(Forbidden, match="orders:write"):
            await place(b"", metadata=(("authorization", bearer(issuer.token())),))
        await channel.close()

    async def test_no_token_reaches_the_log(self, issuer: Issuer, shop: Shop, logs: Any) -> None:
        header = writing(issuer)
        await shop.call("unary_unary", header)
        await shop.refusal("unary_unary", header[:-4] + "AAAA")

        assert header.split(".")[2][:20] not in logs.text
        assert [line["code"] for line in logs.lines if line["event"] == "grpc.call"] == ["OK", "UNAUTHENTICATED"]


class TestIssuerDown:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_known_keys_are_used(
        self, issuer: Issuer, open_shop: Callable[..., Awaitable[Shop]], clock: Clock, kind: str
    ) -> None:
        shop = await open_shop(clock, cache_size=0)
        await shop.call(kind, writing(issuer))
        await issuer.kill()
        clock.advance(301)

        assert await shop.call(kind, writing(issuer)) == repr(ADA)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_without_keys_the_caller_is_told_to_ask_again(
        self, issuer: Issuer, open_shop: Callable[..., Awaitable[Shop]], kind: str
    ) -> None:
        await issuer.kill()
        shop = await open_shop()
        error = await shop.refusal(kind, writing(issuer))

        metadata = dict(error.trailing_metadata() or ())
        assert error.code() == StatusCode.UNAVAILABLE
        assert rich(error)["RetryInfo"].retry_delay.seconds == 10
        assert (metadata["retry-after"], metadata["grpc-retry-pushback-ms"]) == ("10", "10000")
        assert isinstance(error_of(error), Unavailable)

    async def test_it_recovers_by_itself(
        self, issuer: Issuer, open_shop: Callable[..., Awaitable[Shop]], clock: Clock
    ) -> None:
        await issuer.kill()
        shop = await open_shop(clock)
        await shop.refusal("unary_unary", writing(issuer))
        await issuer.restart()
        clock.advance(10)

        assert await shop.call("unary_unary", writing(issuer)) == repr(ADA)

    async def test_an_issuer_that_hangs_does_not_keep_a_call_beyond_its_deadline(
        self, issuer: Issuer, open_shop: Callable[..., Awaitable[Shop]]
    ) -> None:
        issuer.answering.clear()
        shop = await open_shop(timeout=60)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.grpc.port}") as channel:
            place: Any = channel.unary_unary(f"/{SHOP}/unary_unary")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await place(b"", metadata=(("authorization", writing(issuer)),), timeout=0.2)
        issuer.answering.set()

        assert failed.value.code() == StatusCode.DEADLINE_EXCEEDED
        assert await shop.call("unary_unary", writing(issuer)) == repr(ADA)


class TestOpen:
    async def test_health_asks_for_no_token(self, shop: Shop) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.grpc.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            checked = await stub.Check(health_pb2.HealthCheckRequest(service=SHOP))
            watched = await anext(aiter(stub.Watch(health_pb2.HealthCheckRequest())))

        assert checked.status == watched.status == health_pb2.HealthCheckResponse.SERVING

    async def test_reflection_asks_for_no_token(self, shop: Shop) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.grpc.port}") as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            answer = await anext(aiter(stub.ServerReflectionInfo(iter([request]))))

        assert SHOP in {service.name for service in answer.list_services_response.service}

    async def test_what_is_not_there_tells_strangers_nothing(self, shop: Shop) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.grpc.port}") as channel:
            nothing: Any = channel.unary_unary(f"/{SHOP}/Nothing")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await nothing(b"")

        assert failed.value.code() == StatusCode.UNAUTHENTICATED


async def test_outside_of_a_call_nobody_is_calling(shop: Shop, issuer: Issuer) -> None:
    await shop.call("unary_unary", writing(issuer))

    assert context.current() is None
