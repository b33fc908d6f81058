"""The orders' REST resource: it translates between HTTP and the domain, and decides nothing."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from prometheus_client import Counter

from ..domain.models import Order
from ..domain.service import Filter, OrderService, Position
from . import cursor
from .etag import etag, expected, matches
from .schemas import OrderChange, OrderIn, OrderOut, OrderPage, OrderQuery

PLACED = Counter("orders_placed", "Orders taken.")
CHANGED = Counter("orders_changed", "Orders changed, by the status they then had.", ["status"])

IfMatch = Annotated[str | None, Header(description='ETag of the version to change, such as `"1"`, or `*`.')]
IfNoneMatch = Annotated[str | None, Header(description="ETag of the version that the client has.")]
ANSWERS: dict[int | str, dict[str, Any]] = {
    304: {"description": "The client has it already"},
    404: {"description": "There is no such order"},
    409: {"description": "Its status does not allow it"},
    412: {"description": "Somebody else has changed it"},
    428: {"description": "If-Match is missing"},
}


def order_routes(orders: OrderService) -> APIRouter:
    """Return the resource's routes."""
    router = APIRouter(prefix="/v1/orders", tags=["orders"])

    @router.post("", status_code=201, response_model=OrderOut)
    async def place_order(new: OrderIn, request: Request, response: Response) -> Order:
        order = await orders.place(customer=new.customer, item=new.item, quantity=new.quantity)
        PLACED.inc()
        response.headers["location"] = request.url_for("get_order", order_id=order.id).path
        response.headers["etag"] = etag(order.version)
        return order

    @router.get("")
    async def list_orders(query: Annotated[OrderQuery, Query()], request: Request, response: Response) -> OrderPage:
        wanted = Filter(query.status, query.customer, query.created_from)
        after = cursor.decode(query.cursor) if query.cursor else None
        found, more = await orders.page(wanted, after=after, limit=query.limit)
        following = cursor.encode(Position(found[-1].created_at, found[-1].id)) if more else None
        if following:
            url = request.url.include_query_params(cursor=following)
            response.headers["link"] = f'<{url.path}?{url.query}>; rel="next"'
        return OrderPage(items=[OrderOut.of(order) for order in found], next=following)

    @router.get("/{order_id}", response_model=OrderOut, responses={status: ANSWERS[status] for status in (304, 404)})
    async def get_order(order_id: UUID, response: Response, if_none_match: IfNoneMatch = None) -> Order | Response:
        order = await orders.get(order_id)
        response.headers["etag"] = etag(order.version)
        if matches(if_none_match, order.version):
            return Response(status_code=304, headers=response.headers)
        return order

    @router.patch(
        "/{order_id}",
        response_model=OrderOut,
        responses={status: ANSWERS[status] for status in (404, 409, 412, 428)},
    )
    async def change_order(order_id: UUID, change: OrderChange, response: Response, if_match: IfMatch = None) -> Order:
        version = expected(if_match, required=True)
        order = await orders.change(order_id, version=version, quantity=change.quantity, status=change.status)
        CHANGED.labels(order.status).inc()
        response.headers["etag"] = etag(order.version)
        return order

    @router.delete("/{order_id}", status_code=204, responses={status: ANSWERS[status] for status in (404, 412)})
    async def remove_order(order_id: UUID, if_match: IfMatch = None) -> None:
        await orders.remove(order_id, version=expected(if_match, required=False))

    return router
