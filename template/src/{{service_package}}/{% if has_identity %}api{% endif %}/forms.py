"""What browsers and OAuth clients send: forms and queries in which no parameter comes twice (RFC 6749, section 3.1)."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fastapi import Request

from ..domain.errors import OAuthError

FORM = "application/x-www-form-urlencoded"


def unique(text: str) -> Mapping[str, str]:
    """Return the parameters; empty ones count as left out.

    Raises:
        OAuthError: where one comes twice, or the text is no such list.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise OAuthError("invalid_request", "The parameters cannot be read.") from error
    if len({name for name, _ in pairs}) < len(pairs):
        raise OAuthError("invalid_request", "A parameter comes twice.")
    return {name: value for name, value in pairs if value}


async def form_of(request: Request) -> Mapping[str, str]:
    """Return the parameters of a form.

    Raises:
        OAuthError: where the body is no form, or a parameter comes twice.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise OAuthError("invalid_request", f"Send the parameters as {FORM}.")
    body = await request.body()
    try:
        return unique(body.decode("ascii"))
    except UnicodeDecodeError as error:
        raise OAuthError("invalid_request", "The parameters cannot be read.") from error
