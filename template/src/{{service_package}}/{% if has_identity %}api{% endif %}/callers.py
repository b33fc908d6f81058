"""Who calls: an address behind so many proxies, a client with its secret, a token that is still good."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote_plus

from fastapi import Request
from marty_lib import Principal, Unauthenticated, Verifier

from ..domain.clients import ClientService
from ..domain.errors import OAuthError
from ..domain.journal import caller_is_at
from ..domain.models import Client
from ..domain.status import StatusService


def address_of(request: Request, proxies: int) -> str:
    """Return the caller's address.

    Args:
        request: what was asked.
        proxies: how many of our own stand in front and each add an address; what comes before is anybody's word.
    """
    peer = request.client.host if request.client else ""
    if not proxies:
        return peer
    told = [part.strip() for part in ",".join(request.headers.getlist("x-forwarded-for")).split(",") if part.strip()]
    return told[-proxies] if len(told) >= proxies else peer


def noting_address(proxies: int) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets the journal know from where a request comes."""

    async def note(request: Request) -> None:
        caller_is_at(address_of(request, proxies))

    return note


async def client_of(request: Request, form: Mapping[str, str], clients: ClientService) -> Client:
    """Return the client that asks, by `client_secret_basic`, `client_secret_post` or, where it is public, its name.

    Raises:
        OAuthError: where it is another one, or proves it in two ways at once.
    """
    header = request.headers.get("authorization", "")
    if not header:
        return await clients.authenticate(form.get("client_id", ""), form.get("client_secret"))
    client_id, secret = _basic(header)
    if "client_secret" in form or form.get("client_id", client_id) != client_id:
        raise OAuthError("invalid_request", "The client must prove who it is in one way.")
    return await clients.authenticate(client_id, secret)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError("another scheme")
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        if not colon:
            raise ValueError("no colon")
    except (ValueError, binascii.Error) as error:
        raise OAuthError("invalid_client", "The client's credentials cannot be read.") from error
    return unquote_plus(client_id), unquote_plus(secret)


def living(verifier: Verifier, status: StatusService) -> Callable[[str], Awaitable[Principal]]:
    """Return what authenticates callers of this service: unlike others, it knows at once which tokens were revoked."""

    async def authenticate(header: str) -> Principal:
        principal = await verifier.authenticate(header)
        if await status.claims(header.partition(" ")[2].strip()) is None:
            challenge = 'Bearer error="invalid_token", error_description="The token was revoked."'
            raise Unauthenticated(
                "The token was revoked.", code="invalid-token", headers={"WWW-Authenticate": challenge}
            )
        return principal

    return authenticate
