"""What requests must hold: the messages as they come over the wire, with their rules."""

from typing import Annotated, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, StringConstraints, model_validator

from ..domain.models import Status

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Quantity = Annotated[int, Field(ge=1, le=1_000_000)]
Version = Annotated[int, Field(ge=1)]
# STATUS_PAID on the wire is the domain's "paid".
WireStatus = Annotated[Status, BeforeValidator(lambda name: str(name).removeprefix("STATUS_").lower())]


class NewOrder(BaseModel):
    """A new order."""

    customer: Text
    item: Text
    quantity: Quantity


class OrderName(BaseModel):
    """Which order is meant, and of which version it must be."""

    id: UUID
    version: Version | None = None


class OrderChange(OrderName):
    """What changes; what is left out stays."""

    quantity: Quantity | None = None
    status: WireStatus | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.quantity is None and self.status is None:
            raise ValueError("name quantity, status or both")
        return self


class OrderQuery(BaseModel):
    """Which orders are asked for."""

    status: WireStatus | None = None
    customer: Annotated[str, Field(max_length=100)] | None = None
    created_from: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
