"""Requests checked by pydantic, so that the rules of a field are the same ones behind REST and gRPC."""

from __future__ import annotations

from datetime import UTC
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ValidationError

from marty_lib.errors import FieldError, InvalidInput

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], message: Message) -> M:
    """Return what a message holds as a pydantic model.

    A field is missing where it is not set; without `optional` in the proto that is also where it is zero or empty.
    An enum comes as the name of its value, a Timestamp as a datetime in UTC, a Duration as a timedelta.

    Args:
        model: the rules.
        message: the request.

    Raises:
        InvalidInput: with each wrong field.
    """
    try:
        return model.model_validate(values(message))
    except ValidationError as error:
        wrong = [FieldError(_pointer(part["loc"]), part["msg"]) for part in error.errors(include_input=False)]
        raise InvalidInput("Some fields are wrong.", errors=wrong) from error


def values(message: Message) -> dict[str, Any]:
    """Return the fields of a message that are set, by name."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of = field.message_type.fields_by_name["value"]
        return {key: _single(of, each) for key, each in value.items()}
    return [_single(field, each) for each in value] if field.is_repeated else _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if isinstance(value, Duration):
        return value.ToTimedelta()
    if isinstance(value, Message):
        return values(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
