"""Orders in this process's memory: for development and tests, gone with the process."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from uuid import UUID

from ..domain.models import Order
from ..domain.service import Filter, Position


class InMemoryOrders:
    """Orders in a dictionary, and their positions in a sorted list."""

    def __init__(self) -> None:
        self._orders: dict[UUID, Order] = {}
        self._positions: list[Position] = []

    async def add(self, order: Order) -> None:
        """Keep a new order."""
        self._orders[order.id] = order
        insort(self._positions, Position(order.created_at, order.id))

    async def get(self, order_id: UUID) -> Order | None:
        """Return the order, or None where there is none of that id."""
        return self._orders.get(order_id)

    async def replace(self, order: Order, *, version: int) -> bool:
        """Keep the changed order if the kept one still is of `version`; return whether it was."""
        if not self._is_of(order.id, version):
            return False
        self._orders[order.id] = order
        return True

    async def remove(self, order_id: UUID, *, version: int) -> bool:
        """Forget the order if the kept one still is of `version`; return whether it was."""
        if not self._is_of(order_id, version):
            return False
        order = self._orders.pop(order_id)
        del self._positions[bisect_left(self._positions, Position(order.created_at, order.id))]
        return True

    async def page(self, wanted: Filter, *, after: Position | None, limit: int) -> Sequence[Order]:
        """Return up to `limit` orders older than `after`, newest first."""
        end = len(self._positions) if after is None else bisect_left(self._positions, after)
        found: list[Order] = []
        for position in reversed(self._positions[:end]):
            order = self._orders[position.id]
            if wanted.admits(order):
                found.append(order)
            if len(found) == limit:
                break
        return found

    def _is_of(self, order_id: UUID, version: int) -> bool:
        order = self._orders.get(order_id)
        return order is not None and order.version == version
