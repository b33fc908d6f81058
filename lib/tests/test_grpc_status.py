"""Errors as rich statuses, and back."""

from __future__ import annotations

from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from marty_lib import (
    Conflict,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    PreconditionRequired,
    RateLimited,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from marty_lib._grpc_status import DETAILS, LARGEST, error_of, metadata_of, status_of

KINDS: dict[type[ServiceError], StatusCode] = {
    ServiceError: StatusCode.INTERNAL,
    InvalidInput: StatusCode.INVALID_ARGUMENT,
    Unauthenticated: StatusCode.UNAUTHENTICATED,
    Forbidden: StatusCode.PERMISSION_DENIED,
    NotFound: StatusCode.NOT_FOUND,
    Conflict: StatusCode.FAILED_PRECONDITION,
    PreconditionFailed: StatusCode.ABORTED,
    PayloadTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    PreconditionRequired: StatusCode.INVALID_ARGUMENT,
    RateLimited: StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: StatusCode.UNAVAILABLE,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
}
FIELDS = (FieldError("/items/0/quantity", "is too small"), FieldError("", "is nothing"))


def failed(code: StatusCode, details: str = "", packed: bytes | None = None) -> AioRpcError:
    """Return what grpc raises for such a status."""
    trailing = Metadata() if packed is None else Metadata((DETAILS, packed))
    return AioRpcError(code, Metadata(), trailing, details)


def received(error: ServiceError) -> AioRpcError:
    """Return what the client of a service gets that has raised `error`."""
    status = status_of(error, domain="orders", request_id="r-1")
    code = next(code for code in StatusCode if code.value[0] == status.code)
    return failed(code, status.message, status.SerializeToString())


def detail(status: Any, kind: Any) -> Any:
    found = kind()
    assert any(packed.Unpack(found) for packed in status.details)
    return found


def test_every_error_of_the_library_has_a_code() -> None:
    assert set(KINDS) == {ServiceError, *(kind for kind in ServiceError.__subclasses__() if "marty" in kind.__module__)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_as_what_it_was(kind: type[ServiceError]) -> None:
    sent = kind("That is so.", code="of-the-orders", errors=FIELDS, headers={"retry-after": "7"})

    got = received(sent)
    error = error_of(got)

    assert got.code() == KINDS[kind]
    assert type(error) is kind
    assert (error.detail, error.code, error.errors) == ("That is so.", "of-the-orders", FIELDS)
    assert error.headers == {"Retry-After": "7"}


def test_an_error_of_the_domain_comes_back_as_its_kind() -> None:
    class OrderNotFound(NotFound):
        code = "order-not-found"

    error = error_of(received(OrderNotFound()))

    assert (type(error), error.code) == (NotFound, "order-not-found")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.NOT_FOUND, NotFound),
        (StatusCode.ALREADY_EXISTS, Conflict),
        (StatusCode.FAILED_PRECONDITION, Conflict),
        (StatusCode.OUT_OF_RANGE, InvalidInput),
        (StatusCode.UNAVAILABLE, Unavailable),
        (StatusCode.CANCELLED, Unavailable),
        (StatusCode.UNKNOWN, ServiceError),
        (StatusCode.INTERNAL, ServiceError),
    ],
)
def test_a_plain_status_of_another_kind_of_server_is_understood(code: StatusCode, kind: type[ServiceError]) -> None:
    error = error_of(failed(code, "as it says"))

    assert (type(error), error.detail, error.code) == (kind, "as it says", kind.code)


def test_details_of_google_without_our_metadata_are_understood() -> None:
    status = status_pb2.Status(code=StatusCode.NOT_FOUND.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NO_SUCH_BUCKET"))

    error = error_of(failed(StatusCode.NOT_FOUND, "", status.SerializeToString()))

    assert (type(error), error.code) == (NotFound, "no-such-bucket")


@pytest.mark.parametrize("packed", [b"\xff\xff", b"", b"not a status"])
def test_details_that_cannot_be_read_do_no_harm(packed: bytes) -> None:
    assert type(error_of(failed(StatusCode.NOT_FOUND, "gone", packed))) is NotFound


def test_metadata_that_lies_does_no_harm() -> None:
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="X", metadata={"http_status": "many"}))
    status.details.add().type_url = "type.googleapis.com/google.rpc.BadRequest"
    status.details[1].value = b"\xff"

    assert type(error_of(failed(StatusCode.NOT_FOUND, "", status.SerializeToString()))) is NotFound


def test_the_reason_is_as_google_wants_it() -> None:
    info = detail(status_of(NotFound(code="order-not-found"), domain="orders"), error_details_pb2.ErrorInfo)

    assert (info.reason, info.domain) == ("ORDER_NOT_FOUND", "orders")


def test_an_error_without_words_says_what_its_status_means() -> None:
    assert status_of(NotFound(), domain="orders").message == "Not Found"


def test_a_status_is_never_too_large_to_send() -> None:
    many = [FieldError(f"/items/{number}", "is " + "very " * 50 + "wrong") for number in range(1000)]

    status = status_of(InvalidInput("x" * 100_000, errors=many), domain="orders", request_id="r-1", debug="d" * 100_000)

    assert status.ByteSize() <= LARGEST + 200
    assert detail(status, error_details_pb2.BadRequest).field_violations[0].field == "items[0]"


@pytest.mark.parametrize(
    "pointer", ["", "/quantity", "/items/0/quantity", "/0", "query/limit", "/a~1b", "/deep/er/3/4/x"]
)
def test_a_pointer_comes_back_as_it_was(pointer: str) -> None:
    error = error_of(received(InvalidInput(errors=[FieldError(pointer, "is wrong")])))

    # What stands outside of the body has no place in a message, and comes back as a field of it.
    assert error.errors[0].pointer == (pointer if pointer[:1] in ("", "/") else f"/{pointer.replace('/', '~1')}")


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", ""])
def test_a_pause_that_is_no_number_of_seconds_is_a_header_only(value: str) -> None:
    error = RateLimited(headers={"Retry-After": value})

    assert metadata_of(error) == (("retry-after", value),)
    assert not any("RetryInfo" in packed.type_url for packed in status_of(error, domain="orders").details)


def test_a_header_that_cannot_be_metadata_is_left_out() -> None:
    assert metadata_of(RateLimited(headers={"X-Who": "Zoë"})) == ()
