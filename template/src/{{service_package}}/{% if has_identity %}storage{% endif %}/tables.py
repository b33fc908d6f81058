"""The tables; `make migration` writes down how they have changed.

No secret is in them that works as it is: passwords and tokens are hashed, private keys and seeds are sealed.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from marty_lib import Base
from sqlalchemy import JSON, BigInteger, ForeignKey, Integer
from sqlalchemy.orm import Mapped, mapped_column

from .rows import Texts, Words

METADATA = Base.metadata
CASCADE = "CASCADE"


class UserRow(Base):
    """A user."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str]
    created_at: Mapped[datetime]
    email_verified: Mapped[bool]
    disabled: Mapped[bool]
    totp_secret: Mapped[bytes | None]
    totp_confirmed: Mapped[bool]
    totp_step: Mapped[int]


class RoleRow(Base):
    """A role and what it permits."""

    __tablename__ = "roles"

    name: Mapped[str] = mapped_column(primary_key=True)
    permissions: Mapped[frozenset[str]] = mapped_column(Words)


class UserRoleRow(Base):
    """A role that a user has."""

    __tablename__ = "user_roles"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete=CASCADE), primary_key=True)
    role: Mapped[str] = mapped_column(ForeignKey("roles.name", ondelete=CASCADE), primary_key=True)


class RecoveryCodeRow(Base):
    """A recovery code that is still good."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete=CASCADE), primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)


class ClientRow(Base):
    """A client."""

    __tablename__ = "clients"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime]
    secret_digest: Mapped[str | None]
    redirect_uris: Mapped[tuple[str, ...]] = mapped_column(Texts)
    grants: Mapped[frozenset[str]] = mapped_column(Words)
    scopes: Mapped[frozenset[str]] = mapped_column(Words)
    audiences: Mapped[tuple[str, ...]] = mapped_column(Texts)
    trusted: Mapped[bool]


class SessionRow(Base):
    """A browser that is logged in."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete=CASCADE), index=True)
    token_digest: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    methods: Mapped[tuple[str, ...]] = mapped_column(Texts)
    address: Mapped[str]
    agent: Mapped[str]


class GrantRow(Base):
    """What a user has allowed a client; it outlives its session only as a revoked one."""

    __tablename__ = "grants"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.id", ondelete=CASCADE), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete=CASCADE), index=True)
    session_id: Mapped[UUID] = mapped_column(index=True)
    scopes: Mapped[frozenset[str]] = mapped_column(Words)
    auth_time: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked: Mapped[bool]


class RefreshTokenRow(Base):
    """A refresh token; a used one is kept, so that it is known when it comes again."""

    __tablename__ = "refresh_tokens"

    digest: Mapped[str] = mapped_column(primary_key=True)
    grant_id: Mapped[UUID] = mapped_column(ForeignKey("grants.id", ondelete=CASCADE), index=True)
    used: Mapped[bool]


class ConsentRow(Base):
    """Scopes that a user has agreed to."""

    __tablename__ = "consents"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete=CASCADE), primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.id", ondelete=CASCADE), primary_key=True)
    scopes: Mapped[frozenset[str]] = mapped_column(Words)


class SigningKeyRow(Base):
    """A signing key; its place in the sequence is unique, so that two replicas make one next key."""

    __tablename__ = "signing_keys"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kid: Mapped[str] = mapped_column(unique=True)
    algorithm: Mapped[str]
    public: Mapped[dict[str, Any]] = mapped_column(JSON)
    sealed: Mapped[bytes]
    active_from: Mapped[datetime]


class AuditRow(Base):
    """Something that happened."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    event: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    client_id: Mapped[str]
    address: Mapped[str]
    request_id: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
