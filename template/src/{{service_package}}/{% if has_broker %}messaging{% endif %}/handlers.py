"""What this service does about events: it keeps the statistics of each customer up to date.

Events come at least once, and those of one order in their order. Each handler is a unit of work that begins with the
inbox, so that an event which comes twice counts once.
"""

from marty_lib import Database
from marty_lib.events import Consumer, Event
from marty_lib.outbox import Inbox

from ..domain.models import Status
from ..domain.statistics import Change, Statistics
from .contract import CHANGED, PLACED, REMOVED, OrderChanged, OrderPlaced, OrderRemoved


def handle_orders(consumer: Consumer, database: Database, inbox: Inbox, statistics: Statistics) -> None:
    """Have the consumer handle the events of orders."""

    async def count(event: Event, customer: str, change: Change) -> None:
        async with database.transaction():
            if await inbox.once(event):
                await statistics.apply(customer, change)

    @consumer.on(PLACED)
    async def placed(event: Event, order: OrderPlaced) -> None:
        await count(event, order.customer, Change(orders=1, quantity=order.quantity))

    @consumer.on(CHANGED)
    async def changed(event: Event, order: OrderChanged) -> None:
        cancelled = _is_cancelled(order.status) - _is_cancelled(order.previous_status)
        change = Change(quantity=order.quantity - order.previous_quantity, cancelled=cancelled)
        await count(event, order.customer, change)

    @consumer.on(REMOVED)
    async def removed(event: Event, order: OrderRemoved) -> None:
        change = Change(orders=-1, quantity=-order.quantity, cancelled=-_is_cancelled(order.status))
        await count(event, order.customer, change)


def _is_cancelled(status: Status) -> int:
    return int(status == Status.CANCELLED)
