"""What goes over the wire: checked on the way in, described in OpenAPI."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..domain.models import Order, Status

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Quantity = Annotated[int, Field(ge=1, le=1_000_000)]


class OrderIn(BaseModel):
    """A new order."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"customer": "ada", "item": "analytical engine", "quantity": 1}]},
    )

    customer: Text
    item: Text
    quantity: Quantity


class OrderChange(BaseModel):
    """What changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"status": "paid"}, {"quantity": 2}]})

    quantity: Quantity | None = None
    status: Status | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.quantity is None and self.status is None:
            raise ValueError("name quantity, status or both")
        return self


class OrderOut(BaseModel):
    """An order."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "0b5c2d0e-7f3a-4a8e-9d55-1f0c6f3f9a11",
                    "customer": "ada",
                    "item": "analytical engine",
                    "quantity": 1,
                    "status": "open",
                    "created_at": "2026-01-31T12:00:00Z",
                    "version": 1,
                }
            ]
        },
    )

    id: UUID
    customer: str
    item: str
    quantity: int
    status: Status
    created_at: datetime
    version: int

    @classmethod
    def of(cls, order: Order) -> Self:
        """Return the order as it goes over the wire."""
        return cls.model_validate(order)


class OrderPage(BaseModel):
    """A part of the list, newest first."""

    items: list[OrderOut]
    next: str | None = Field(description="Pass it as `cursor` to read on; null at the end.")


class OrderQuery(BaseModel):
    """Which part of the list is asked for."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = Field(None, description="Only orders of this status.")
    customer: str | None = Field(None, description="Only orders of this customer.", max_length=100)
    created_from: AwareDatetime | None = Field(None, description="Only orders of this time or later.")
    limit: int = Field(20, ge=1, le=100, description="How many at most.")
    cursor: str | None = Field(None, description="`next` of the page before.", max_length=200)
