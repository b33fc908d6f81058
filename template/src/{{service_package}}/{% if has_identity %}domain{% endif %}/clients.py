"""Applications: found, registered, and asked to prove who they are."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import uuid4

from marty_lib import FieldError, InvalidInput

from .errors import NoSuchClient, OAuthError
from .journal import Journal
from .models import Client
from .stores import Clients, Transaction
from .vault import digest, new_secret, same

GRANTS = frozenset({"authorization_code", "client_credentials", "refresh_token"})
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}")


@dataclass(frozen=True, slots=True)
class Registration:
    """What somebody wants a new client to be."""

    name: str
    confidential: bool
    redirect_uris: tuple[str, ...]
    grants: frozenset[str]
    scopes: frozenset[str]
    audiences: tuple[str, ...] = ()
    trusted: bool = False


class ClientService:
    """What can be done with applications.

    Args:
        clients: where they are kept.
        transaction: opens a unit of work.
        journal: of what happened.
        bootstrap: a client that the settings know, by which the first ones are registered; None is none.
        now: the time, in UTC.
    """

    def __init__(
        self,
        clients: Clients,
        transaction: Transaction,
        journal: Journal,
        *,
        bootstrap: Client | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clients = clients
        self._transaction = transaction
        self._journal = journal
        self._bootstrap = bootstrap
        self._now = now

    async def find(self, client_id: str) -> Client | None:
        """Return a client, or None."""
        if self._bootstrap is not None and client_id == self._bootstrap.id:
            return self._bootstrap
        async with self._transaction():
            return await self._clients.get(client_id)

    async def all(self) -> Sequence[Client]:
        """Return the registered clients."""
        async with self._transaction():
            return await self._clients.all()

    async def authenticate(self, client_id: str, secret: str | None) -> Client:
        """Return the client that asks; a public one has no secret and proves nothing.

        Raises:
            OAuthError: where it is another one.
        """
        client = await self.find(client_id)
        known = client is not None and (
            secret is None
            if client.secret_digest is None
            else secret is not None and same(secret, client.secret_digest)
        )
        if client is None or not known:
            await self._journal.alone("client.refused", client_id=client_id if client else "")
            raise OAuthError("invalid_client", "The client is unknown, or its secret is wrong.")
        return client

    async def register(self, wanted: Registration) -> tuple[Client, str]:
        """Keep a new client; return it, and the secret that is never shown again ('' for a public one).

        Raises:
            InvalidInput: where something of it cannot be.
        """
        if wrong := problems(wanted):
            raise InvalidInput("Some fields are wrong.", errors=wrong)
        secret = new_secret() if wanted.confidential else ""
        client = Client(
            id=uuid4().hex,
            name=wanted.name,
            created_at=self._now(),
            secret_digest=digest(secret) if wanted.confidential else None,
            redirect_uris=wanted.redirect_uris,
            grants=wanted.grants,
            scopes=wanted.scopes,
            audiences=wanted.audiences,
            trusted=wanted.trusted,
        )
        async with self._transaction():
            await self._clients.add(client)
            await self._journal.note("client.registered", client_id=client.id, name=client.name)
        return client, secret

    async def remove(self, client_id: str) -> None:
        """Forget a client and what it was granted.

        Raises:
            NoSuchClient: where there is none of that id.
        """
        async with self._transaction():
            if not await self._clients.remove(client_id):
                raise NoSuchClient(f"There is no client {client_id}.")
            await self._journal.note("client.removed", client_id=client_id)


def problems(client: Registration) -> list[FieldError]:
    """Return what is wrong with a new client."""
    found = []
    if unknown := client.grants - GRANTS:
        found.append(FieldError("/grants", f"knows no {', '.join(sorted(unknown))}"))
    if "client_credentials" in client.grants and not client.confidential:
        found.append(FieldError("/grants", "allows client_credentials to confidential clients only"))
    if "authorization_code" in client.grants and not client.redirect_uris:
        found.append(FieldError("/redirect_uris", "must name at least one"))
    for at, uri in enumerate(client.redirect_uris):
        if problem := uri_problem(uri):
            found.append(FieldError(f"/redirect_uris/{at}", problem))
    found += [FieldError("/scopes", f"has no {scope!r}") for scope in client.scopes if not SCOPE.fullmatch(scope)]
    return found


def uri_problem(uri: str) -> str:
    """Return what is wrong with a redirect URI, or ''; it is later compared by the character."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return "is no URI"
    if not uri.isascii() or not uri.isprintable() or " " in uri or "*" in uri:
        return "holds characters that it may not hold"
    if parts.fragment or "#" in uri:
        return "must have no fragment"
    if parts.scheme in ("http", "https"):
        if not host or parts.username or parts.password:
            return "must name a host, and nobody at it"
        return "" if parts.scheme == "https" or host in LOOPBACK else "must be https, or http on a loopback address"
    # RFC 8252, section 7.1: an app's own scheme is a domain name of its maker, reversed.
    return "" if "." in parts.scheme else "must be https, or a scheme with a dot in it such as com.example.app"
