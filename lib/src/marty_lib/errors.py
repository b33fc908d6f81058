"""One error for every door: a problem document over HTTP (RFC 9457), a status over gRPC, a reason on a dead letter.

    ServiceError                500 internal
      InvalidInput              422 invalid-input
      Unauthenticated           401 unauthenticated
      Forbidden                 403 forbidden
      NotFound                  404 not-found
      Conflict                  409 conflict
      PreconditionFailed        412 precondition-failed
      PayloadTooLarge           413 payload-too-large
      PreconditionRequired      428 precondition-required
      RateLimited               429 rate-limited
      Unavailable               503 unavailable
      DeadlineExceeded          504 deadline-exceeded

A domain derives its own errors from these and never names a status itself. What a `ServiceError` says is shown to
the caller; any other exception is an internal error, of which the caller sees nothing but an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One wrong field of the input.

    Args:
        pointer: where it stands, as a JSON pointer into the body (`/items/0/quantity`), or `query/limit`, `path/id`.
        message: what is wrong with it, for a person.
    """

    pointer: str
    message: str


class ServiceError(Exception):
    """The base of all errors that a caller may see.

    Args:
        detail: one sentence for the caller: what is wrong with this request, and what to change.
        code: a stable name for programs; by default the class's.
        errors: the wrong fields, if any.
        headers: further response headers, such as `Retry-After`.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "internal"

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class InvalidInput(ServiceError):
    """The input breaks a rule that the caller could have known."""

    status = HTTPStatus.UNPROCESSABLE_CONTENT if hasattr(HTTPStatus, "UNPROCESSABLE_CONTENT") else HTTPStatus(422)
    code = "invalid-input"


class Unauthenticated(ServiceError):
    """Nobody knows who is calling."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"


class Forbidden(ServiceError):
    """The caller is known and may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(ServiceError):
    """There is no such thing, or the caller may not know of it."""

    status = HTTPStatus.NOT_FOUND
    code = "not-found"


class Conflict(ServiceError):
    """The request does not fit the present state."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class PreconditionFailed(ServiceError):
    """Somebody else has changed it since the caller read it."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition-failed"


class PayloadTooLarge(ServiceError):
    """The body is larger than the service takes."""

    status = HTTPStatus(413)
    code = "payload-too-large"


class PreconditionRequired(ServiceError):
    """The change must say which version it changes."""

    status = HTTPStatus.PRECONDITION_REQUIRED
    code = "precondition-required"


class RateLimited(ServiceError):
    """The caller asks too often."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate-limited"


class Unavailable(ServiceError):
    """Something that the service needs is down; the same request may work later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"


class DeadlineExceeded(ServiceError):
    """The time that the caller or the service allows is over."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    code = "deadline-exceeded"


def problem(error: ServiceError, *, request_id: str = "", error_id: str = "") -> dict[str, Any]:
    """Return the problem document of an error.

    Args:
        error: what went wrong.
        request_id: the request it happened in.
        error_id: under which the log holds the rest; given for internal errors only.

    Returns:
        The members of RFC 9457 and `code`, `request_id`, `errors` and `error_id` where they are known.
    """
    document: dict[str, Any] = {
        "type": f"urn:problem-type:{error.code}",
        "title": error.status.phrase,
        "status": int(error.status),
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        "errors": [field._asdict() for field in error.errors],
        "error_id": error_id,
    }
    return {name: value for name, value in document.items() if value}


class StartError(Exception):
    """The service cannot start; the text says what to change."""
