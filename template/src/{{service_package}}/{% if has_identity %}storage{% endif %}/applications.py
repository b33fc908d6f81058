"""Clients, what they were granted, keys and the journal in the database."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from marty_lib.db import Database, found, is_unique_violation, keyset
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from ..domain.models import AuditEvent, Client, Grant, SigningKey
from .tables import AuditRow, ClientRow, ConsentRow, GrantRow, RefreshTokenRow, SigningKeyRow


class SqlClients:
    """Applications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, client: Client) -> None:
        """Keep a new client."""
        row = ClientRow(
            id=client.id,
            name=client.name,
            created_at=client.created_at,
            secret_digest=client.secret_digest,
            redirect_uris=list(client.redirect_uris),
            grants=sorted(client.grants),
            scopes=sorted(client.scopes),
            audiences=list(client.audiences),
            trusted=client.trusted,
        )
        self._database.session.add(row)
        await self._database.session.flush()

    async def get(self, client_id: str) -> Client | None:
        """Return a client, or None."""
        row = await self._database.session.get(ClientRow, client_id)
        return _client(row) if row else None

    async def all(self) -> Sequence[Client]:
        """Return every client."""
        rows = await self._database.session.scalars(select(ClientRow).order_by(ClientRow.created_at, ClientRow.id))
        return [_client(row) for row in rows]

    async def remove(self, client_id: str) -> bool:
        """Forget a client and what it was granted; return whether it was there."""
        return await found(self._database.session, delete(ClientRow).where(ClientRow.id == client_id))


class SqlGrants:
    """What users have allowed clients, and the refresh tokens that came of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, grant: Grant) -> None:
        """Keep a new grant."""
        row = GrantRow(
            id=grant.id,
            client_id=grant.client_id,
            user_id=grant.user_id,
            session_id=grant.session_id,
            scopes=sorted(grant.scopes),
            auth_time=grant.auth_time,
            expires_at=grant.expires_at,
            revoked=grant.revoked,
        )
        self._database.session.add(row)
        await self._database.session.flush()

    async def get(self, grant_id: UUID) -> Grant | None:
        """Return a grant, or None."""
        row = await self._database.session.get(GrantRow, grant_id, populate_existing=True)
        return _grant(row) if row else None

    async def revoke(self, grant_id: UUID) -> None:
        """Revoke a grant with all its refresh tokens."""
        await self._database.session.execute(update(GrantRow).where(GrantRow.id == grant_id).values(revoked=True))

    async def revoke_of(self, session_ids: Sequence[UUID]) -> None:
        """Revoke the grants of sessions."""
        theirs = update(GrantRow).where(GrantRow.session_id.in_(session_ids)).values(revoked=True)
        await self._database.session.execute(theirs)

    async def add_token(self, digest: str, grant_id: UUID) -> None:
        """Keep a refresh token."""
        self._database.session.add(RefreshTokenRow(digest=digest, grant_id=grant_id, used=False))
        await self._database.session.flush()

    async def by_token(self, digest: str) -> Grant | None:
        """Return the grant of a refresh token, used or not, or None."""
        token = await self._database.session.get(RefreshTokenRow, digest)
        return await self.get(token.grant_id) if token else None

    async def is_unused(self, digest: str) -> bool:
        """Return whether a refresh token was not used yet."""
        token = await self._database.session.get(RefreshTokenRow, digest)
        return token is not None and not token.used

    async def use_token(self, digest: str) -> bool:
        """Use a refresh token up; return False where it was used before."""
        unused = (
            update(RefreshTokenRow)
            .where(RefreshTokenRow.digest == digest, RefreshTokenRow.used.is_(False))
            .values(used=True)
        )
        return await found(self._database.session, unused)

    async def remove_expired(self, before: datetime) -> None:
        """Forget grants that ended before."""
        await self._database.session.execute(delete(GrantRow).where(GrantRow.expires_at < before))

    async def consent(self, user_id: UUID, client_id: str) -> frozenset[str]:
        """Return the scopes that a user has agreed to."""
        row = await self._database.session.get(ConsentRow, (user_id, client_id))
        return frozenset(row.scopes if row else ())

    async def put_consent(self, user_id: UUID, client_id: str, scopes: frozenset[str]) -> None:
        """Keep the scopes that a user has agreed to."""
        await self._database.session.merge(ConsentRow(user_id=user_id, client_id=client_id, scopes=sorted(scopes)))


class SqlKeys:
    """Keys that sign tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[SigningKey]:
        """Return the keys in the order of their sequence."""
        rows = await self._database.session.scalars(select(SigningKeyRow).order_by(SigningKeyRow.sequence))
        return [
            SigningKey(row.sequence, row.kid, row.algorithm, row.public, row.sealed, row.active_from) for row in rows
        ]

    async def add(self, key: SigningKey) -> bool:
        """Keep a key; return False where another replica has taken its place in the sequence."""
        row = SigningKeyRow(
            sequence=key.sequence,
            kid=key.kid,
            algorithm=key.algorithm,
            public=dict(key.public),
            sealed=key.sealed,
            active_from=key.active_from,
        )
        try:
            async with self._database.session.begin_nested():
                self._database.session.add(row)
        except IntegrityError as error:
            if is_unique_violation(error):
                return False
            raise
        return True

    async def remove(self, sequences: Sequence[int]) -> None:
        """Forget keys."""
        await self._database.session.execute(delete(SigningKeyRow).where(SigningKeyRow.sequence.in_(sequences)))


class SqlAudit:
    """What happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, event: AuditEvent) -> None:
        """Keep an event."""
        row = AuditRow(
            at=event.at,
            event=event.event,
            subject=event.subject,
            client_id=event.client_id,
            address=event.address,
            request_id=event.request_id,
            details=dict(event.details),
        )
        self._database.session.add(row)
        await self._database.session.flush()

    async def page(self, *, before: int | None, limit: int) -> Sequence[tuple[int, AuditEvent]]:
        """Return events and their numbers, newest first."""
        after = None if before is None else [before]
        statement = keyset(select(AuditRow), [AuditRow.id], after=after, limit=limit, newest_first=True)
        rows = await self._database.session.scalars(statement)
        return [
            (
                row.id,
                AuditEvent(row.at, row.event, row.subject, row.client_id, row.address, row.request_id, row.details),
            )
            for row in rows
        ]


def _client(row: ClientRow) -> Client:
    return Client(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        secret_digest=row.secret_digest,
        redirect_uris=tuple(row.redirect_uris),
        grants=frozenset(row.grants),
        scopes=frozenset(row.scopes),
        audiences=tuple(row.audiences),
        trusted=row.trusted,
    )


def _grant(row: GrantRow) -> Grant:
    return Grant(
        row.id,
        row.client_id,
        row.user_id,
        row.session_id,
        frozenset(row.scopes),
        row.auth_time,
        row.expires_at,
        row.revoked,
    )
