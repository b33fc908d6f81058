"""Messages as pydantic models; Google's own messages have a field of each kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.type_pb2 import Field
from google.rpc.context.attribute_context_pb2 import AttributeContext
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from marty_lib import InvalidInput, checked
from marty_lib._grpc_check import values
from pydantic import AwareDatetime, BaseModel, StringConstraints, model_validator
from pydantic import Field as Rule


class Violation(BaseModel):
    field: str
    description: Annotated[str, StringConstraints(strip_whitespace=True, min_length=3)]


class Violations(BaseModel):
    field_violations: list[Violation]


class Request(BaseModel):
    time: AwareDatetime
    size: Annotated[int, Rule(ge=1)] = 7

    @model_validator(mode="after")
    def _small(self) -> Self:
        if self.size > 100:
            raise ValueError("is too large as a whole")
        return self


def wrong(model: type[BaseModel], message: Any) -> list[str]:
    """Return the pointers to the wrong fields."""
    with pytest.raises(InvalidInput) as caught:
        checked(model, message)
    assert all(field.message for field in caught.value.errors)
    return [field.pointer for field in caught.value.errors]


def test_a_message_that_keeps_to_the_rules_is_a_model() -> None:
    message = BadRequest(field_violations=[{"field": "a", "description": "  too long  "}])

    assert checked(Violations, message).field_violations == [Violation(field="a", description="too long")]


def test_each_wrong_field_is_named_by_pointer() -> None:
    message = BadRequest(field_violations=[{"field": "a", "description": "fine"}, {"description": " x "}])

    assert wrong(Violations, message) == ["/field_violations/1/field", "/field_violations/1/description"]


def test_no_value_is_shown() -> None:
    with pytest.raises(InvalidInput) as caught:
        checked(Violations, BadRequest(field_violations=[{"field": "hunter2", "description": "x2"}]))

    assert "hunter2" not in repr(caught.value.errors)
    assert "x2" not in repr(caught.value.errors)


def test_a_rule_about_the_whole_points_to_the_whole() -> None:
    message = AttributeContext.Request(size=101)
    message.time.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))

    assert wrong(Request, message) == [""]


def test_a_field_that_is_not_set_is_missing_and_may_have_a_default() -> None:
    message = AttributeContext.Request()
    assert wrong(Request, message) == ["/time"]

    message.time.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    assert checked(Request, message).size == 7


def test_zero_counts_where_the_proto_tells_it_from_nothing() -> None:
    assert values(FieldDescriptorProto(number=0)) == {"number": 0}
    assert values(AttributeContext.Request(size=0)) == {}


def test_times_come_in_utc_and_durations_as_such() -> None:
    message = AttributeContext.Request()
    message.time.FromDatetime(datetime(2026, 1, 31, 12, tzinfo=UTC))

    assert values(message) == {"time": datetime(2026, 1, 31, 12, tzinfo=UTC)}
    assert values(RetryInfo(retry_delay=Duration(seconds=90))) == {"retry_delay": timedelta(seconds=90)}


def test_an_enum_comes_by_name_and_an_unknown_one_by_number() -> None:
    field = Field(kind=Field.TYPE_BOOL)
    assert values(field) == {"kind": "TYPE_BOOL"}

    field.MergeFromString(b"\x08\x63")
    assert values(field) == {"kind": 99}


def test_maps_are_dictionaries_whatever_they_hold() -> None:
    assert values(ErrorInfo(metadata={"code": "a"})) == {"metadata": {"code": "a"}}
    assert values(Struct(fields={"a": Value(number_value=1.5)})) == {"fields": {"a": {"number_value": 1.5}}}


def test_a_key_is_escaped_in_the_pointer() -> None:
    class Numbers(BaseModel):
        metadata: dict[str, int]

    assert wrong(Numbers, ErrorInfo(metadata={"a/b~c": "x"})) == ["/metadata/a~1b~0c"]
