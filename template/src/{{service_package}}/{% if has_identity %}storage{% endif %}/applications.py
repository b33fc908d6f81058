"""Clients, what they were granted, keys and the journal in the database."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from marty_lib.db import found, keyset
from sqlalchemy import delete, select, update

from ..domain.models import AuditEvent, Client, Grant, SigningKey
from .rows import Rows, model_of, models_of, row_of
from .tables import AuditRow, ClientRow, ConsentRow, GrantRow, RefreshTokenRow, SigningKeyRow


class SqlClients(Rows):
    """Applications."""

    async def add(self, client: Client) -> None:
        """Keep a new client."""
        await self._put(row_of(ClientRow, client))

    async def get(self, client_id: str) -> Client | None:
        """Return a client, or None."""
        row = await self._session.get(ClientRow, client_id)
        return model_of(Client, row) if row else None

    async def all(self) -> Sequence[Client]:
        """Return every client."""
        rows = await self._session.scalars(select(ClientRow).order_by(ClientRow.created_at, ClientRow.id))
        return models_of(Client, rows)

    async def remove(self, client_id: str) -> bool:
        """Forget a client and what it was granted; return whether it was there."""
        return await found(self._session, delete(ClientRow).where(ClientRow.id == client_id))


class SqlGrants(Rows):
    """What users have allowed clients, and the refresh tokens that came of it."""

    async def add(self, grant: Grant) -> bool:
        """Keep a new grant; return False where there is one of that id."""
        return await self._put_new(row_of(GrantRow, grant))

    async def get(self, grant_id: UUID) -> Grant | None:
        """Return a grant, or None."""
        row = await self._session.get(GrantRow, grant_id, populate_existing=True)
        return model_of(Grant, row) if row else None

    async def revoke(self, grant_id: UUID) -> None:
        """Revoke a grant with all its refresh tokens."""
        await self._session.execute(update(GrantRow).where(GrantRow.id == grant_id).values(revoked=True))

    async def revoke_of(self, session_ids: Sequence[UUID]) -> None:
        """Revoke the grants of sessions."""
        theirs = update(GrantRow).where(GrantRow.session_id.in_(session_ids)).values(revoked=True)
        await self._session.execute(theirs)

    async def add_token(self, digest: str, grant_id: UUID) -> None:
        """Keep a refresh token."""
        await self._put(RefreshTokenRow(digest=digest, grant_id=grant_id, used=False))

    async def by_token(self, digest: str) -> Grant | None:
        """Return the grant of a refresh token, used or not, or None."""
        token = await self._session.get(RefreshTokenRow, digest)
        return await self.get(token.grant_id) if token else None

    async def is_unused(self, digest: str) -> bool:
        """Return whether a refresh token was not used yet."""
        token = await self._session.get(RefreshTokenRow, digest)
        return token is not None and not token.used

    async def use_token(self, digest: str) -> bool:
        """Use a refresh token up; return False where it was used before."""
        unused = (
            update(RefreshTokenRow)
            .where(RefreshTokenRow.digest == digest, RefreshTokenRow.used.is_(False))
            .values(used=True)
        )
        return await found(self._session, unused)

    async def remove_expired(self, before: datetime) -> None:
        """Forget grants that ended before."""
        await self._session.execute(delete(GrantRow).where(GrantRow.expires_at < before))

    async def consent(self, user_id: UUID, client_id: str) -> frozenset[str]:
        """Return the scopes that a user has agreed to."""
        row = await self._session.get(ConsentRow, (user_id, client_id))
        return row.scopes if row else frozenset()

    async def put_consent(self, user_id: UUID, client_id: str, scopes: frozenset[str]) -> None:
        """Keep the scopes that a user has agreed to."""
        await self._session.merge(ConsentRow(user_id=user_id, client_id=client_id, scopes=scopes))


class SqlKeys(Rows):
    """Keys that sign tokens."""

    async def all(self) -> Sequence[SigningKey]:
        """Return the keys in the order of their sequence."""
        rows = await self._session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.sequence))
        return models_of(SigningKey, rows)

    async def add(self, key: SigningKey) -> bool:
        """Keep a key; return False where another replica has taken its place in the sequence."""
        return await self._put_new(row_of(SigningKeyRow, key))

    async def remove(self, sequences: Sequence[int]) -> None:
        """Forget keys."""
        await self._session.execute(delete(SigningKeyRow).where(SigningKeyRow.sequence.in_(sequences)))


class SqlAudit(Rows):
    """What happened."""

    async def add(self, event: AuditEvent) -> None:
        """Keep an event."""
        await self._put(row_of(AuditRow, event))

    async def page(self, *, before: int | None, limit: int) -> Sequence[tuple[int, AuditEvent]]:
        """Return events and their numbers, newest first."""
        after = None if before is None else [before]
        statement = keyset(select(AuditRow), [AuditRow.id], after=after, limit=limit, newest_first=True)
        return [(row.id, model_of(AuditEvent, row)) for row in await self._session.scalars(statement)]
