"""Orders whose changes are told: each writes its event in the unit of work that changes the order."""

from collections.abc import Sequence
from uuid import UUID

from marty_lib.outbox import Outbox

from ..domain.models import Order
from ..domain.service import Filter, Orders, Position
from .contract import CHANGED, PLACED, REMOVED, OrderChanged, OrderPlaced, OrderRemoved


class PublishingOrders:
    """Orders as they are kept elsewhere, and an event for each change. The domain does not know of it.

    Args:
        orders: where they are kept.
        outbox: publishes what the unit of work has committed.
    """

    def __init__(self, orders: Orders, outbox: Outbox) -> None:
        self._orders = orders
        self._outbox = outbox

    async def add(self, order: Order) -> None:
        """Keep a new order."""
        await self._orders.add(order)
        placed = OrderPlaced(
            order_id=order.id,
            customer=order.customer,
            item=order.item,
            quantity=order.quantity,
            placed_at=order.created_at,
        )
        await self._outbox.add(PLACED.event(placed, key=str(order.id)))

    async def get(self, order_id: UUID) -> Order | None:
        """Return the order, or None where there is none of that id."""
        return await self._orders.get(order_id)

    async def replace(self, order: Order, *, version: int) -> bool:
        """Keep the changed order if the kept one still is of `version`; return whether it was."""
        before = await self._orders.get(order.id)
        if before is None or not await self._orders.replace(order, version=version):
            return False
        changed = OrderChanged(
            order_id=order.id,
            customer=order.customer,
            quantity=order.quantity,
            status=order.status,
            previous_quantity=before.quantity,
            previous_status=before.status,
            version=order.version,
        )
        await self._outbox.add(CHANGED.event(changed, key=str(order.id)))
        return True

    async def remove(self, order_id: UUID, *, version: int) -> bool:
        """Forget the order if the kept one still is of `version`; return whether it was."""
        before = await self._orders.get(order_id)
        if before is None or not await self._orders.remove(order_id, version=version):
            return False
        removed = OrderRemoved(
            order_id=order_id, customer=before.customer, quantity=before.quantity, status=before.status
        )
        await self._outbox.add(REMOVED.event(removed, key=str(order_id)))
        return True

    async def page(self, wanted: Filter, *, after: Position | None, limit: int) -> Sequence[Order]:
        """Return up to `limit` orders older than `after`, newest first."""
        return await self._orders.page(wanted, after=after, limit=limit)
