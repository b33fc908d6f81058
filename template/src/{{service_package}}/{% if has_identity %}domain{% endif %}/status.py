"""What has become of a token: introspection (RFC 7662), revocation (RFC 7009), userinfo."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from .journal import Journal
from .models import Client, User
from .stores import Grants, ShortLived, Transaction, Users
from .tokens import Tokens
from .vault import digest

INACTIVE: Mapping[str, object] = {"active": False}
SHOWN = ("iss", "sub", "aud", "client_id", "scope", "roles", "exp", "iat", "jti")


class StatusService:
    """Tells and changes what has become of tokens.

    Args:
        tokens: reads access tokens.
        grants: where refresh tokens are kept.
        users: who they are.
        short_lived: where revoked access tokens are kept.
        journal: of what happened.
        transaction: opens a unit of work.
        now: the time, in UTC.
    """

    def __init__(
        self,
        tokens: Tokens,
        grants: Grants,
        users: Users,
        short_lived: ShortLived,
        journal: Journal,
        transaction: Transaction,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tokens = tokens
        self._grants = grants
        self._users = users
        self._short_lived = short_lived
        self._journal = journal
        self._transaction = transaction
        self._now = now

    async def claims(self, token: str) -> Mapping[str, Any] | None:
        """Return the claims of an access token that is good at this moment, else None."""
        claims = await self._tokens.read(token)
        if claims is None or await self._short_lived.is_denied(claims["jti"]):
            return None
        if "gid" not in claims:
            return claims
        async with self._transaction():
            grant = await self._grants.get(UUID(claims["gid"]))
            user = await self._users.get(UUID(claims["sub"]))
        good = grant is not None and not grant.revoked and user is not None and not user.disabled
        return claims if good else None

    async def introspect(self, token: str, client_id: str) -> Mapping[str, object]:
        """Return what a client may know of a token; of a refresh token only its own client."""
        claims = await self.claims(token)
        if claims is not None:
            shown = {name: claims[name] for name in SHOWN if name in claims}
            return {"active": True, "token_type": "Bearer", **shown}
        async with self._transaction():
            grant = await self._grants.by_token(digest(token))
            if grant is None or grant.client_id != client_id or grant.revoked or grant.expires_at <= self._now():
                return INACTIVE
            if not await self._grants.is_unused(digest(token)):
                return INACTIVE
        return {
            "active": True,
            "client_id": grant.client_id,
            "sub": str(grant.user_id),
            "scope": " ".join(sorted(grant.scopes)),
            "exp": int(grant.expires_at.timestamp()),
        }

    async def revoke(self, token: str, client: Client) -> None:
        """Revoke a token of this client; of others, and of what is none, say nothing."""
        claims = await self._tokens.read(token)
        if claims is not None and claims["client_id"] == client.id:
            await self._short_lived.deny(claims["jti"], self._tokens.lifetime)
            await self._journal.alone("token.revoked", subject=claims["sub"], client_id=client.id)
            return
        async with self._transaction():
            grant = await self._grants.by_token(digest(token))
            if grant is not None and grant.client_id == client.id:
                await self._grants.revoke(grant.id)
                await self._journal.note("grant.revoked", subject=grant.user_id, client_id=client.id)

    async def userinfo(self, claims: Mapping[str, Any]) -> Mapping[str, object]:
        """Return what the token's scopes tell of its user."""
        async with self._transaction():
            user = await self._users.get(UUID(claims["sub"]))
        return {} if user is None else told(user, frozenset(claims["scope"].split()))


def told(user: User, scopes: frozenset[str]) -> Mapping[str, object]:
    """Return the claims about a user that the scopes allow."""
    found: dict[str, object] = {"sub": str(user.id)}
    if "profile" in scopes:
        found |= {"name": user.name, "roles": sorted(user.roles)}
    if "email" in scopes:
        found |= {"email": user.email, "email_verified": user.email_verified}
    return found
