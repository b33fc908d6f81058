"""Who there is and what they were given: users, clients, sessions, grants, keys. Plain Python without a framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

IDENTITY_SCOPES = frozenset({"openid", "profile", "email", "offline_access", "account"})
"""Scopes that any user may give; every other scope is a permission that a role must hold."""


@dataclass(frozen=True, slots=True)
class User:
    """A person; `permissions` are those of all the roles."""

    id: UUID
    email: str
    name: str
    password_hash: str = field(repr=False)
    created_at: datetime
    roles: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    email_verified: bool = False
    disabled: bool = False
    totp_secret: bytes | None = field(default=None, repr=False)
    """Sealed; None is no second factor."""
    totp_confirmed: bool = False
    totp_step: int = 0
    """The last step of time whose code was used."""

    @property
    def has_second_factor(self) -> bool:
        """Whether a password alone is not enough."""
        return self.totp_secret is not None and self.totp_confirmed

    def may(self, permission: str) -> bool:
        """Whether the user may do something."""
        return not self.disabled and permission in self.permissions


@dataclass(frozen=True, slots=True)
class Client:
    """An application that asks for tokens; one without a secret is public, such as an app on a phone."""

    id: str
    name: str
    created_at: datetime
    secret_digest: str | None = field(default=None, repr=False)
    redirect_uris: tuple[str, ...] = ()
    grants: frozenset[str] = frozenset({"authorization_code"})
    scopes: frozenset[str] = frozenset({"openid"})
    audiences: tuple[str, ...] = ()
    trusted: bool = False
    """Whether it is of this house: users are not asked for their consent."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is logged in."""

    id: UUID
    user_id: UUID
    token_digest: str = field(repr=False)
    created_at: datetime
    expires_at: datetime
    methods: tuple[str, ...] = ("pwd",)
    """How the user has proved who they are, in the words of RFC 8176."""
    address: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user has allowed a client, and with it a family of refresh tokens: revoked as a whole."""

    id: UUID
    client_id: str
    user_id: UUID
    session_id: UUID
    scopes: frozenset[str]
    auth_time: datetime
    expires_at: datetime
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """What an authorization code stands for."""

    client_id: str
    redirect_uri: str
    challenge: str
    scopes: frozenset[str]
    nonce: str
    user_id: UUID
    session_id: UUID
    auth_time: datetime
    methods: tuple[str, ...]
    grant_id: UUID
    """The grant that it becomes: a code that comes twice revokes it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens from `active_from` until a later one does."""

    sequence: int
    kid: str
    algorithm: str
    public: Mapping[str, object]
    sealed: bytes = field(repr=False)
    active_from: datetime


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that somebody may ask about later."""

    at: datetime
    event: str
    subject: str = ""
    client_id: str = ""
    address: str = ""
    request_id: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
