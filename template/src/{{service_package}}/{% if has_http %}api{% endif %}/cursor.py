"""Positions in a list as opaque text, so that clients depend on nothing inside."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from uuid import UUID

from marty_lib import FieldError, InvalidInput

from ..domain.service import Position


def encode(position: Position) -> str:
    """Return the position as text for a URL."""
    return urlsafe_b64encode(f"{position.created_at.isoformat()}|{position.id}".encode()).decode().rstrip("=")


def decode(text: str) -> Position:
    """Return the position that `encode` has made text of.

    Raises:
        InvalidInput: where the text is of another origin.
    """
    try:
        moment, order_id = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split("|")
        position = Position(datetime.fromisoformat(moment), UUID(order_id))
        if position.created_at.tzinfo is None:
            raise ValueError("a time without a zone")
    except ValueError as error:
        wrong = FieldError("query/cursor", "is not the `next` of a page")
        raise InvalidInput("The cursor is wrong: begin again without it.", errors=[wrong]) from error
    return position
