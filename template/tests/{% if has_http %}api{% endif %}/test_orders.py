"""The REST resource as its clients see it."""

from typing import Any
from uuid import uuid4

import pytest
from httpx2 import AsyncClient, Response

NEW = {"customer": "ada", "item": "engine", "quantity": 2}


async def place(client: AsyncClient, **changes: object) -> Response:
    response = await client.post("/v1/orders", json=NEW | changes)
    assert response.status_code == 201, response.text
    return response


def problem(response: Response, status: int, code: str) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["request_id"] == response.headers["x-request-id"]
    return document


async def test_a_placed_order_is_where_location_says(client: AsyncClient) -> None:
    placed = await place(client)
    found = await client.get(placed.headers["location"])
    assert found.json() == placed.json()
    assert found.json() | NEW == found.json()


async def test_an_unknown_order_is_a_problem(client: AsyncClient) -> None:
    problem(await client.get(f"/v1/orders/{uuid4()}"), 404, "order-not-found")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"quantity": 0}, "/quantity"),
        ({"quantity": "many"}, "/quantity"),
        ({"customer": " "}, "/customer"),
        ({"price": 3}, "/price"),
    ],
)
async def test_a_wrong_field_is_named(client: AsyncClient, change: dict[str, object], pointer: str) -> None:
    response = await client.post("/v1/orders", json=NEW | change)
    assert [wrong["pointer"] for wrong in problem(response, 422, "invalid-input")["errors"]] == [pointer]


async def test_pages_lead_from_one_to_the_next(client: AsyncClient) -> None:
    placed = [(await place(client, item=f"item {number}")).json() for number in range(5)]
    seen: list[Any] = []
    response = await client.get("/v1/orders", params={"limit": 2})
    while True:
        seen += response.json()["items"]
        if "next" not in response.links:
            break
        response = await client.get(response.links["next"]["url"])
    assert seen == placed[::-1]
    assert response.json()["next"] is None


async def test_filters_narrow_the_list(client: AsyncClient) -> None:
    await place(client, customer="bob")
    await place(client)
    found = (await client.get("/v1/orders", params={"customer": "bob", "status": "open"})).json()["items"]
    assert [order["customer"] for order in found] == ["bob"]


@pytest.mark.parametrize("query", ["cursor=nonsense", "limit=0", "limit=101", "status=lost", "colour=red"])
async def test_a_wrong_query_is_a_problem(client: AsyncClient, query: str) -> None:
    name = query.partition("=")[0]
    document = problem(await client.get(f"/v1/orders?{query}"), 422, "invalid-input")
    assert [wrong["pointer"] for wrong in document["errors"]] == [f"query/{name}"]


async def test_a_client_that_has_the_version_gets_it_not_again(client: AsyncClient) -> None:
    placed = await place(client)
    response = await client.get(placed.headers["location"], headers={"if-none-match": placed.headers["etag"]})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == placed.headers["etag"]


async def test_a_change_with_the_etag_makes_a_new_version(client: AsyncClient) -> None:
    placed = await place(client)
    tag = {"if-match": placed.headers["etag"]}
    changed = await client.patch(placed.headers["location"], json={"status": "paid"}, headers=tag)
    assert (changed.status_code, changed.json()["status"]) == (200, "paid")
    assert changed.headers["etag"] != placed.headers["etag"]


async def test_a_change_without_etag_is_refused(client: AsyncClient) -> None:
    placed = await place(client)
    response = await client.patch(placed.headers["location"], json={"status": "paid"})
    problem(response, 428, "precondition-required")


@pytest.mark.parametrize("tag", ['"7"', 'W/"1"', '"of another service"'])
async def test_a_change_of_another_version_is_refused(client: AsyncClient, tag: str) -> None:
    placed = await place(client)
    response = await client.patch(placed.headers["location"], json={"status": "paid"}, headers={"if-match": tag})
    problem(response, 412, "order-changed")


async def test_a_condition_that_is_no_tag_is_a_problem(client: AsyncClient) -> None:
    placed = await place(client)
    response = await client.patch(placed.headers["location"], json={"quantity": 3}, headers={"if-match": "1"})
    problem(response, 422, "invalid-input")


async def test_an_impossible_change_is_a_conflict(client: AsyncClient) -> None:
    placed = await place(client)
    response = await client.patch(placed.headers["location"], json={"status": "shipped"}, headers={"if-match": "*"})
    problem(response, 409, "impossible-change")


async def test_a_change_of_nothing_is_a_problem(client: AsyncClient) -> None:
    placed = await place(client)
    response = await client.patch(placed.headers["location"], json={}, headers={"if-match": "*"})
    problem(response, 422, "invalid-input")


async def test_a_removed_order_is_gone(client: AsyncClient) -> None:
    placed = await place(client)
    assert (await client.delete(placed.headers["location"])).status_code == 204
    problem(await client.get(placed.headers["location"]), 404, "order-not-found")


async def test_every_error_in_the_openapi_document_is_a_problem(client: AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    responses = [
        (status, response)
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
    ]
    errors = [response for status, response in responses if status == "default" or status >= "400"]
    assert errors
    assert all(set(response["content"]) == {"application/problem+json"} for response in errors)


async def test_the_openapi_document_shows_examples(client: AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["OrderIn"]["examples"]
    assert schemas["OrderOut"]["examples"]
