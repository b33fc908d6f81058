"""REST and gRPC as two doors of one application: the same principal, the same error, one drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import grpc
import httpx2
import pytest
from fastapi import Depends, Header
from marty_lib import (
    App,
    Forbidden,
    GrpcSettings,
    HttpSettings,
    Unauthenticated,
    context,
    create_api,
    serve,
    serve_grpc,
)
from marty_lib.grpc import error_of


class Doors:
    """A use case that tells who asks, behind both doors, with one way to find that out."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.reached = {"http": asyncio.Event(), "grpc": asyncio.Event()}
        self.gates = {"http": asyncio.Event(), "grpc": asyncio.Event()}
        api = create_api(app, HttpSettings(port=0), title="Doors")

        async def who(authorization: Annotated[str, Header()] = "") -> None:
            request = context.current()
            assert request is not None
            context._current.set(request._replace(principal=await self.authenticate(authorization)))

        @api.get("/who", dependencies=[Depends(who)])
        async def over_http() -> str:
            return self.tell()

        @api.get("/wait")
        async def wait() -> str:
            return await self.wait("http")

        self.http = app.add(serve(api, HttpSettings(port=0)))
        self.grpc = app.add(serve_grpc(app, GrpcSettings(port=0), self.register, authenticate=self.authenticate))

    @staticmethod
    async def authenticate(value: str) -> object:
        if not value.startswith("Bearer "):
            raise Unauthenticated("Send a token.", code="no-token")
        return value.removeprefix("Bearer ")

    @staticmethod
    def tell() -> str:
        request = context.current()
        assert request is not None
        if request.principal == "mallory":
            raise Forbidden("Not you.", code="not-mallory")
        return f"{request.principal} by {request.request_id}"

    async def wait(self, door: str) -> str:
        self.reached[door].set()
        await self.gates[door].wait()
        return "waited"

    def register(self, server: grpc.aio.Server) -> None:
        async def who(_: bytes, __: Any) -> bytes:
            return self.tell().encode()

        async def wait(_: bytes, __: Any) -> bytes:
            return (await self.wait("grpc")).encode()

        handlers: dict[str, Any] = {
            "Who": grpc.unary_unary_rpc_method_handler(who),
            "Wait": grpc.unary_unary_rpc_method_handler(wait),
        }
        server.add_registered_method_handlers("doors.v1.Doors", handlers)

    async def over_rest(self, path: str, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.http.port}", trust_env=False) as client:
            return await client.get(path, headers=headers, timeout=20)

    async def over_grpc(self, method: str, **metadata: str) -> str:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc.port}") as channel:
            call: Any = channel.unary_unary(f"/doors.v1.Doors/{method}")
            return str((await call(b"", metadata=tuple(metadata.items()), timeout=20)).decode())


@pytest.fixture
async def doors(make_app: Callable[..., App]) -> AsyncIterator[Doors]:
    doors = Doors(make_app())
    await doors.app.start()
    yield doors
    await doors.app.stop(delay=0)


def headers(who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {who}", "x-request-id": "r-1"}


async def test_the_principal_is_the_same_at_both_doors(doors: Doors) -> None:
    assert (await doors.over_rest("/who", **headers("ada"))).json() == "ada by r-1"
    assert await doors.over_grpc("Who", **headers("ada")) == "ada by r-1"


@pytest.mark.parametrize(
    "sent", [headers("mallory"), {"x-request-id": "r-1", "authorization": ""}], ids=["forbidden", "unknown"]
)
async def test_the_error_is_the_same_at_both_doors(doors: Doors, sent: dict[str, str]) -> None:
    problem = (await doors.over_rest("/who", **sent)).json()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await doors.over_grpc("Who", **sent)

    error = error_of(failed.value)
    assert (error.code, error.detail, int(error.status)) == (problem["code"], problem["detail"], problem["status"])
    assert dict(failed.value.trailing_metadata() or ())["x-request-id"] == problem["request_id"] == "r-1"


@pytest.mark.parametrize("order", [("http", "grpc"), ("grpc", "http")])
async def test_neither_door_ends_while_the_other_works(doors: Doors, order: tuple[str, str]) -> None:
    calls: dict[str, asyncio.Task[Any]] = {
        "http": asyncio.create_task(doors.over_rest("/wait")),
        "grpc": asyncio.create_task(doors.over_grpc("Wait", **headers("ada"))),
    }
    for reached in doors.reached.values():
        await reached.wait()
    stop = asyncio.create_task(doors.app.stop(delay=0))

    for door in order:
        assert not stop.done()
        doors.gates[door].set()
        await calls[door]
    assert await stop
    assert (calls["http"].result().json(), calls["grpc"].result()) == ("waited", "waited")
