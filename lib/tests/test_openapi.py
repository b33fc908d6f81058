"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from marty_lib import App, FieldError, HttpSettings, InvalidInput, create_api
from marty_lib.errors import problem
from openapi_spec_validator import validate
from pydantic import BaseModel

Client = Callable[[Any], httpx2.AsyncClient]


class Order(BaseModel):
    quantity: int


@pytest.fixture
def make_api(make_app: Callable[..., App]) -> Callable[..., FastAPI]:
    def make(**settings: Any) -> FastAPI:
        api = create_api(make_app(), HttpSettings(**settings), title="Orders", description="Takes orders.")

        @api.post("/orders/{name}", status_code=201, responses={409: {"description": "It is there already."}})
        async def place(name: int, order: Order) -> Order:
            return order

        @api.get("/orders")
        async def orders() -> list[Order]:
            return []

        return api

    return make


def test_the_document_is_valid(make_api: Callable[..., FastAPI]) -> None:
    validate(make_api().openapi())


def test_the_document_tells_title_and_version(make_api: Callable[..., FastAPI]) -> None:
    info = make_api().openapi()["info"]

    assert info == {"title": "Orders", "description": "Takes orders.", "version": "1.2.3"}


@pytest.mark.parametrize(
    ("path", "method", "errors"),
    [("/orders/{name}", "post", {"409", "422", "default"}), ("/orders", "get", {"default"})],
)
def test_every_error_is_described_as_a_problem(
    make_api: Callable[..., FastAPI], path: str, method: str, errors: set[str]
) -> None:
    responses = make_api().openapi()["paths"][path][method]["responses"]

    described = {status for status, response in responses.items() if "application/problem+json" in response["content"]}
    assert described == errors
    assert all(len(responses[status]["content"]) == 1 for status in errors)


def test_frameworks_own_error_is_not_described(make_api: Callable[..., FastAPI]) -> None:
    assert make_api().openapi()["components"]["schemas"].keys() == {"Order", "Problem"}


def test_the_document_is_made_once(make_api: Callable[..., FastAPI]) -> None:
    api = make_api()

    assert api.openapi() is api.openapi()


def test_a_problem_fits_its_schema_and_so_does_the_example(make_api: Callable[..., FastAPI]) -> None:
    schema = make_api().openapi()["components"]["schemas"]["Problem"]
    error = InvalidInput("Wrong.", errors=[FieldError("/a", "is missing")])

    for document in (problem(error, request_id="r", error_id="e"), schema["example"]):
        Draft202012Validator(schema).validate(document)
        assert document.keys() <= schema["properties"].keys()


async def test_the_documentation_may_load_its_scripts(client: Client, make_api: Callable[..., FastAPI]) -> None:
    page = await client(make_api()).get("/docs")

    assert page.status_code == 200
    assert "https://cdn.jsdelivr.net" in page.headers.get_list("content-security-policy")[0]
    assert len(page.headers.get_list("content-security-policy")) == 1


async def test_the_document_is_served(client: Client, make_api: Callable[..., FastAPI]) -> None:
    api = make_api()

    assert (await client(api).get("/openapi.json")).json() == api.openapi()


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_documentation_can_be_switched_off(client: Client, make_api: Callable[..., FastAPI], path: str) -> None:
    assert (await client(make_api(docs=False)).get(path)).status_code == 404
