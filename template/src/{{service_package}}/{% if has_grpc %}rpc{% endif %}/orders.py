"""The orders' gRPC service: it translates between messages and the domain, and decides nothing."""

from collections.abc import AsyncIterator, Callable
from functools import partial

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import Server
from marty_lib import checked

from ..domain.models import Order
from ..domain.service import Filter, OrderService, Position
from ..metrics import CHANGED, PLACED
from ..v1 import orders_pb2 as pb
from ..v1.orders_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server
from .checks import NewOrder, OrderChange, OrderName, OrderQuery

PAGE = 100


def order_calls(orders: OrderService) -> Callable[[Server], None]:
    """Return what adds the calls to a server."""
    return partial(add_OrderServiceServicer_to_server, OrderCalls(orders))


class OrderCalls(OrderServiceServicer):
    """The calls, as orders.proto describes them."""

    def __init__(self, orders: OrderService) -> None:
        self._orders = orders

    async def PlaceOrder(self, request: pb.PlaceOrderRequest, context: object) -> pb.Order:
        return message(await self._place(request))

    async def GetOrder(self, request: pb.GetOrderRequest, context: object) -> pb.Order:
        return message(await self._orders.get(checked(OrderName, request).id))

    async def ChangeOrder(self, request: pb.ChangeOrderRequest, context: object) -> pb.Order:
        return message(await self._change(request))

    async def RemoveOrder(self, request: pb.RemoveOrderRequest, context: object) -> Empty:
        order = checked(OrderName, request)
        await self._orders.remove(order.id, version=order.version)
        return Empty()

    async def ListOrders(self, request: pb.ListOrdersRequest, context: object) -> AsyncIterator[pb.Order]:
        query = checked(OrderQuery, request)
        wanted = Filter(query.status, query.customer, query.created_from)
        left, after, more = query.limit, None, True
        while more and left != 0:
            found, more = await self._orders.page(wanted, after=after, limit=PAGE if left is None else min(left, PAGE))
            for order in found:
                yield message(order)
                after = Position(order.created_at, order.id)
            left = None if left is None else left - len(found)

    async def PlaceOrders(
        self, request_iterator: AsyncIterator[pb.PlaceOrderRequest], context: object
    ) -> pb.PlaceOrdersResponse:
        placed = [message(await self._place(request)) async for request in request_iterator]
        return pb.PlaceOrdersResponse(orders=placed)

    async def ChangeOrders(
        self, request_iterator: AsyncIterator[pb.ChangeOrderRequest], context: object
    ) -> AsyncIterator[pb.Order]:
        async for request in request_iterator:
            yield message(await self._change(request))

    async def _place(self, request: pb.PlaceOrderRequest) -> Order:
        new = checked(NewOrder, request)
        order = await self._orders.place(customer=new.customer, item=new.item, quantity=new.quantity)
        PLACED.inc()
        return order

    async def _change(self, request: pb.ChangeOrderRequest) -> Order:
        change = checked(OrderChange, request)
        order = await self._orders.change(
            change.id, version=change.version, quantity=change.quantity, status=change.status
        )
        CHANGED.labels(order.status).inc()
        return order


def message(order: Order) -> pb.Order:
    """Return the order as it goes over the wire."""
    created_at = Timestamp()
    created_at.FromDatetime(order.created_at)
    return pb.Order(
        id=str(order.id),
        customer=order.customer,
        item=order.item,
        quantity=order.quantity,
        status=pb.Status.Value(f"STATUS_{order.status.name}"),
        created_at=created_at,
        version=order.version,
    )
