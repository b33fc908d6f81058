"""Where things are kept: what the domain asks of its storage."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from .models import AuditEvent, Client, Code, Grant, Session, SigningKey, User

Transaction = Callable[[], AbstractAsyncContextManager[object]]
"""Opens a unit of work: what is kept inside is kept together, or not at all."""


class Users(Protocol):
    """People and their roles."""

    async def add(self, user: User) -> bool:
        """Keep a new user; return False where the address is taken."""

    async def get(self, user_id: UUID) -> User | None:
        """Return a user, or None."""

    async def by_email(self, email: str) -> User | None:
        """Return the user of an address in lower case, or None."""

    async def replace(self, user: User) -> None:
        """Keep the changed user; `totp_step` is left alone."""

    async def page(self, *, after: UUID | None, limit: int) -> Sequence[User]:
        """Return users in the order of their ids."""

    async def use_step(self, user_id: UUID, step: int) -> bool:
        """Note that a step's code is used; return False where it, or a later one, was used before."""

    async def put_recovery_codes(self, user_id: UUID, digests: Sequence[str]) -> None:
        """Keep these recovery codes, and no others."""

    async def use_recovery_code(self, user_id: UUID, digest: str) -> bool:
        """Use a recovery code up; return False where there is no such one."""


class Roles(Protocol):
    """Roles and the permissions that each holds."""

    async def put(self, name: str, permissions: frozenset[str]) -> None:
        """Define a role."""

    async def all(self) -> Mapping[str, frozenset[str]]:
        """Return every role."""


class Clients(Protocol):
    """Applications."""

    async def add(self, client: Client) -> None:
        """Keep a new client."""

    async def get(self, client_id: str) -> Client | None:
        """Return a client, or None."""

    async def all(self) -> Sequence[Client]:
        """Return every client."""

    async def remove(self, client_id: str) -> bool:
        """Forget a client and what it was granted; return whether it was there."""


class Sessions(Protocol):
    """Browsers that are logged in."""

    async def add(self, session: Session) -> None:
        """Keep a new session."""

    async def get(self, session_id: UUID) -> Session | None:
        """Return a session, or None."""

    async def by_token(self, digest: str) -> Session | None:
        """Return the session of a cookie, or None."""

    async def of(self, user_id: UUID) -> Sequence[Session]:
        """Return a user's sessions, newest first."""

    async def remove(self, session_ids: Sequence[UUID]) -> None:
        """End sessions."""

    async def remove_expired(self, before: datetime) -> None:
        """Forget sessions that ended before."""


class Grants(Protocol):
    """What users have allowed clients, and the refresh tokens that came of it."""

    async def add(self, grant: Grant) -> bool:
        """Keep a new grant; return False where there is one of that id."""

    async def get(self, grant_id: UUID) -> Grant | None:
        """Return a grant, or None."""

    async def revoke(self, grant_id: UUID) -> None:
        """Revoke a grant with all its refresh tokens."""

    async def revoke_of(self, session_ids: Sequence[UUID]) -> None:
        """Revoke the grants of sessions."""

    async def add_token(self, digest: str, grant_id: UUID) -> None:
        """Keep a refresh token."""

    async def by_token(self, digest: str) -> Grant | None:
        """Return the grant of a refresh token, used or not, or None."""

    async def is_unused(self, digest: str) -> bool:
        """Return whether a refresh token was not used yet."""

    async def use_token(self, digest: str) -> bool:
        """Use a refresh token up; return False where it was used before."""

    async def remove_expired(self, before: datetime) -> None:
        """Forget grants that ended before."""

    async def consent(self, user_id: UUID, client_id: str) -> frozenset[str]:
        """Return the scopes that a user has agreed to."""

    async def put_consent(self, user_id: UUID, client_id: str, scopes: frozenset[str]) -> None:
        """Keep the scopes that a user has agreed to."""


class Keys(Protocol):
    """Keys that sign tokens."""

    async def all(self) -> Sequence[SigningKey]:
        """Return the keys in the order of their sequence."""

    async def add(self, key: SigningKey) -> bool:
        """Keep a key; return False where another replica has taken its place in the sequence."""

    async def remove(self, sequences: Sequence[int]) -> None:
        """Forget keys."""


class Audit(Protocol):
    """What happened."""

    async def add(self, event: AuditEvent) -> None:
        """Keep an event."""

    async def page(self, *, before: int | None, limit: int) -> Sequence[tuple[int, AuditEvent]]:
        """Return events and their numbers, newest first."""


class ShortLived(Protocol):
    """What is gone after minutes."""

    async def put_code(self, digest: str, code: Code, seconds: int) -> None:
        """Keep an authorization code."""

    async def take_code(self, digest: str) -> tuple[Code | None, int]:
        """Count a use of a code; return what it stands for, if it still does, and how often it was used by now."""

    async def uses(self, digest: str) -> int:
        """Return how often a code was used."""

    async def put_login(self, digest: str, user_id: UUID, seconds: int) -> None:
        """Keep a login whose second factor is missing."""

    async def login(self, digest: str) -> UUID | None:
        """Return the user of such a login, or None."""

    async def remove_login(self, digest: str) -> None:
        """Forget such a login."""

    async def deny(self, token_id: str, seconds: int) -> None:
        """Note that an access token was revoked."""

    async def is_denied(self, token_id: str) -> bool:
        """Return whether an access token was revoked."""


class Attempts(Protocol):
    """How often somebody has tried in vain."""

    async def locked_for(self, name: str) -> float:
        """Return the seconds until the next attempt is allowed; 0 is now."""

    async def count(self, name: str, seconds: int) -> int:
        """Count an attempt and return how many there were; they are forgotten that time after the first one."""

    async def uncount(self, name: str) -> None:
        """Take one attempt back."""

    async def lock(self, name: str, seconds: float) -> bool:
        """Allow no attempt for a time; return False where somebody else was first."""

    async def forget(self, name: str) -> None:
        """Forget the attempts."""
