"""The events of this service: a promise to whoever handles them, so change them as you would a public API.

A field may be added. What would break a consumer is a new version of the topic, published beside the old one.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from marty_lib.events import EventType, topic_name
from pydantic import BaseModel

from .. import about
from ..domain.models import Status

ORDERS = topic_name(about.NAME, "order")


class OrderPlaced(BaseModel):
    """An order was taken."""

    order_id: UUID
    customer: str
    item: str
    quantity: int
    placed_at: datetime


class OrderChanged(BaseModel):
    """Quantity or status of an order changed."""

    order_id: UUID
    customer: str
    quantity: int
    status: Status
    previous_quantity: int
    previous_status: Status
    version: int


class OrderRemoved(BaseModel):
    """An order was removed."""

    order_id: UUID
    customer: str
    quantity: int
    status: Status


PLACED = EventType("order.placed", OrderPlaced, topic=ORDERS, source=about.NAME)
CHANGED = EventType("order.changed", OrderChanged, topic=ORDERS, source=about.NAME)
REMOVED = EventType("order.removed", OrderRemoved, topic=ORDERS, source=about.NAME)
PUBLISHED: tuple[EventType[Any], ...] = (PLACED, CHANGED, REMOVED)
