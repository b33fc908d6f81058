"""Errors as gRPC's rich status (google.rpc), out of a service and back into one.

The status says everything that the problem document of the same error says over HTTP: `ErrorInfo` its code (in
upper case as Google's rules ask, and as it is in the metadata) and the HTTP status, `BadRequest` the wrong fields,
`RequestInfo` the request's id, `RetryInfo` when to ask again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from marty_lib import errors
from marty_lib.errors import FieldError, ServiceError

# Peers take 8 KiB of metadata by default, and the status travels there in base64.
LARGEST = 4_000
LONGEST_DETAIL = 1_000
DETAILS = "grpc-status-details-bin"

_CODES: dict[int, StatusCode] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    # https://google.aip.dev/193: the state forbids it (409), or somebody else was faster (412).
    409: StatusCode.FAILED_PRECONDITION,
    412: StatusCode.ABORTED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    422: StatusCode.INVALID_ARGUMENT,
    428: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
_KINDS: dict[int, type[ServiceError]] = {
    int(kind.status): kind for kind in ServiceError.__subclasses__() if kind.__module__ == errors.__name__
}
# What a status means that names no HTTP status, because another kind of server has sent it.
_FOREIGN: dict[StatusCode, type[ServiceError]] = {
    StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
    StatusCode.OUT_OF_RANGE: errors.InvalidInput,
    StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    StatusCode.PERMISSION_DENIED: errors.Forbidden,
    StatusCode.NOT_FOUND: errors.NotFound,
    StatusCode.ALREADY_EXISTS: errors.Conflict,
    StatusCode.FAILED_PRECONDITION: errors.Conflict,
    StatusCode.ABORTED: errors.PreconditionFailed,
    StatusCode.RESOURCE_EXHAUSTED: errors.RateLimited,
    StatusCode.UNAVAILABLE: errors.Unavailable,
    # By the other side, that is: it stops.
    StatusCode.CANCELLED: errors.Unavailable,
    StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}


def code_of(error: ServiceError) -> StatusCode:
    """Return the status code that stands for an error."""
    status = int(error.status)
    return _CODES.get(status, StatusCode.INTERNAL if status >= 500 else StatusCode.FAILED_PRECONDITION)


def status_of(
    error: ServiceError, *, domain: str, request_id: str = "", error_id: str = "", debug: str = ""
) -> status_pb2.Status:
    """Return the rich status of an error, cut where it would be too large to send.

    Args:
        error: what went wrong.
        domain: the service in whose terms the code is.
        request_id: the request it happened in.
        error_id: under which the log holds the rest; given for internal errors only.
        debug: a traceback, for development only.
    """
    message = (error.detail or error.status.phrase)[:LONGEST_DETAIL]
    status = status_pb2.Status(code=code_of(error).value[0], message=message)
    about = {"code": error.code, "http_status": str(int(error.status)), "error_id": error_id}
    _pack(
        status,
        details.ErrorInfo(
            reason=error.code.upper().replace("-", "_"),
            domain=domain,
            metadata={name: value for name, value in about.items() if value},
        ),
    )
    if request_id:
        _pack(status, details.RequestInfo(request_id=request_id))
    seconds = retry_after(error)
    if seconds is not None:
        _pack(status, details.RetryInfo(retry_delay=Duration(seconds=seconds)))
    if debug:
        _pack(status, details.DebugInfo(detail=debug[-LONGEST_DETAIL:]))
    if error.errors:
        _pack(status, _bad_request(error.errors, LARGEST - status.ByteSize()))
    return status


def _pack(status: status_pb2.Status, detail: Any) -> None:
    status.details.add().Pack(detail)


def _bad_request(wrong: Iterable[FieldError], largest: int) -> details.BadRequest:
    """Return the wrong fields, as many as fit into `largest` bytes."""
    found = details.BadRequest()
    for field in wrong:
        found.field_violations.add(field=field_path(field.pointer), description=field.message[:LONGEST_DETAIL])
        if found.ByteSize() > largest:
            del found.field_violations[-1]
            break
    return found


def field_path(pointer: str) -> str:
    """Return a JSON pointer as the path that google.rpc uses: `/items/0/quantity` is `items[0].quantity`."""
    if not pointer.startswith("/"):
        return pointer
    path = ""
    for part in pointer[1:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        path += f"[{name}]" if name.isdecimal() else f".{name}" if path else name
    return path


def pointer(path: str) -> str:
    """Return the JSON pointer that `field_path` has made a path of."""
    parts = path.replace("[", ".").replace("]", "").removeprefix(".").split(".")
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts) if path else ""


def retry_after(error: ServiceError) -> int | None:
    """Return the seconds of the header `Retry-After`, or None where there is none or it is a date."""
    value = next((value for name, value in error.headers.items() if name.lower() == "retry-after"), "")
    return int(value) if value.isdecimal() else None


def metadata_of(error: ServiceError) -> tuple[tuple[str, str], ...]:
    """Return the error's headers as metadata, and the pause that gRPC's own retries keep to."""
    found = [(name.lower(), value) for name, value in error.headers.items() if value.isascii()]
    seconds = retry_after(error)
    if seconds is not None:
        found.append(("grpc-retry-pushback-ms", str(seconds * 1000)))
    return tuple(found)


def abort_with(status: status_pb2.Status, metadata: tuple[tuple[str, str], ...]) -> tuple[StatusCode, str, Any]:
    """Return what a servicer context's `abort` takes."""
    rich: Any = rpc_status.to_status(status)
    return rich.code, rich.details, (*metadata, *rich.trailing_metadata)


def error_of(failed: grpc.aio.AioRpcError) -> ServiceError:
    """Return the error that a call has failed with, as the library's class of the same meaning.

    Args:
        failed: what grpc has raised; it may be from a server that sends no rich status.
    """
    trailing = failed.trailing_metadata() or ()
    found = _Details(_status_in(trailing))
    kind = _KINDS.get(found.http_status) or _FOREIGN.get(failed.code(), ServiceError)
    headers = {"Retry-After": str(found.retry_after)} if found.retry_after is not None else {}
    return kind(failed.details() or "", code=found.code or None, errors=found.errors, headers=headers)


def _status_in(metadata: Iterable[tuple[str, Any]]) -> status_pb2.Status:
    """Return the rich status among trailing metadata; an empty one where there is none that can be read."""
    for name, value in metadata:
        if name == DETAILS:
            with contextlib.suppress(Exception):
                return status_pb2.Status.FromString(value)
    return status_pb2.Status()


class _Details:
    """What a rich status tells."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.code = ""
        self.http_status = 0
        self.errors: tuple[FieldError, ...] = ()
        self.retry_after: int | None = None
        for packed in status.details:
            with contextlib.suppress(Exception):
                self._take(packed)

    def _take(self, packed: Any) -> None:
        info, wrong, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
        if packed.Unpack(info):
            self.code = info.metadata.get("code") or info.reason.lower().replace("_", "-")
            self.http_status = int(info.metadata.get("http_status", "0"))
        elif packed.Unpack(wrong):
            self.errors = tuple(FieldError(pointer(each.field), each.description) for each in wrong.field_violations)
        elif packed.Unpack(retry):
            self.retry_after = retry.retry_delay.seconds
