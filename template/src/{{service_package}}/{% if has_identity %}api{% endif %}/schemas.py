"""What goes over the wire: checked on the way in, described in OpenAPI."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, EmailStr, Field, SecretStr, StringConstraints

from ..domain.models import AuditEvent, Client, Session, User

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,49}$")]
Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,100}$")]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Password = Annotated[SecretStr, Field(max_length=256)]
OneTimeCode = Annotated[str, StringConstraints(strip_whitespace=True, min_length=6, max_length=40)]


class In(BaseModel):
    """The base of what comes in: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Out(BaseModel):
    """The base of what goes out."""

    model_config = ConfigDict(from_attributes=True)


class UserIn(In):
    """A new user."""

    email: EmailStr
    name: Name
    password: Password
    roles: frozenset[RoleName] = frozenset()
    email_verified: bool = False


class UserChange(In):
    """What changes; what is left out stays."""

    roles: frozenset[RoleName] | None = None
    disabled: bool | None = None
    email_verified: bool | None = None


class UserOut(Out):
    """A user."""

    id: UUID
    email: str
    email_verified: bool
    name: str
    roles: list[str]
    disabled: bool
    second_factor: bool
    created_at: datetime

    @classmethod
    def of(cls, user: User) -> Self:
        """Return the user as it goes over the wire."""
        return cls(
            id=user.id,
            email=user.email,
            email_verified=user.email_verified,
            name=user.name,
            roles=sorted(user.roles),
            disabled=user.disabled,
            second_factor=user.has_second_factor,
            created_at=user.created_at,
        )


class UserPage(BaseModel):
    """A part of the list, in the order of the ids."""

    items: list[UserOut]
    next: UUID | None = Field(description="Pass it as `after` to read on; null at the end.")


class RoleIn(In):
    """What a role permits."""

    permissions: frozenset[Scope]


class RoleOut(Out):
    """A role."""

    name: str
    permissions: list[str]


class ClientIn(In):
    """A new client."""

    name: Name
    confidential: bool = True
    redirect_uris: list[Uri] = Field(default_factory=list, max_length=20)
    grants: frozenset[str] = frozenset({"authorization_code", "refresh_token"})
    scopes: frozenset[Scope] = frozenset({"openid", "profile", "email"})
    audiences: list[Uri] = Field(default_factory=list, max_length=20, description="Services that its tokens are for.")
    trusted: bool = Field(False, description="Whether users are not asked for their consent.")


class ClientOut(Out):
    """A client."""

    id: str
    name: str
    confidential: bool
    redirect_uris: list[str]
    grants: list[str]
    scopes: list[str]
    audiences: list[str]
    trusted: bool
    created_at: datetime

    @classmethod
    def of(cls, client: Client) -> Self:
        """Return the client as it goes over the wire."""
        return cls(**_of(client))


class NewClient(ClientOut):
    """A client that was just registered, and its secret, which is never shown again."""

    secret: str = Field(description="Empty for a public client.")

    @classmethod
    def with_secret(cls, client: Client, secret: str) -> Self:
        """Return the client and its secret as they go over the wire."""
        return cls(**_of(client), secret=secret)


def _of(client: Client) -> dict[str, Any]:
    return {
        "id": client.id,
        "name": client.name,
        "confidential": client.secret_digest is not None,
        "redirect_uris": list(client.redirect_uris),
        "grants": sorted(client.grants),
        "scopes": sorted(client.scopes),
        "audiences": list(client.audiences),
        "trusted": client.trusted,
        "created_at": client.created_at,
    }


class RotationIn(In):
    """How to rotate the signing keys."""

    at_once: bool = Field(False, description="Sign with the new key before everybody has heard of it.")
    withdraw: bool = Field(False, description="Forget the keys before, and with them all tokens: after a theft.")


class KeyOut(BaseModel):
    """The newest signing key."""

    kid: str
    active_from: datetime


class SessionOut(Out):
    """A browser that is logged in."""

    id: UUID
    created_at: datetime
    expires_at: datetime
    address: str
    agent: str
    methods: list[str]
    current: bool = False

    @classmethod
    def of(cls, session: Session, current: str) -> Self:
        """Return the session as it goes over the wire."""
        found = cls.model_validate(session)
        return found.model_copy(update={"current": str(session.id) == current})


class PasswordChange(In):
    """A new password."""

    current: Password
    new: Password


class CodeIn(In):
    """A one-time code."""

    code: OneTimeCode


class SecondFactorOut(BaseModel):
    """A new second factor, which counts once it is confirmed with a code."""

    secret: str
    uri: str = Field(description="For an authenticator app, as a QR code.")


class RecoveryCodes(BaseModel):
    """Codes for a lost telephone, each good once, never shown again."""

    codes: list[str]


class EventOut(Out):
    """Something that happened."""

    id: int
    at: datetime
    event: str
    subject: str
    client_id: str
    address: str
    request_id: str
    details: dict[str, Any]

    @classmethod
    def of(cls, number: int, event: AuditEvent) -> Self:
        """Return the event as it goes over the wire."""
        return cls(
            id=number,
            at=event.at,
            event=event.event,
            subject=event.subject,
            client_id=event.client_id,
            address=event.address,
            request_id=event.request_id,
            details=dict(event.details),
        )


class EventPage(BaseModel):
    """A part of the journal, newest first."""

    items: list[EventOut]
    next: int | None = Field(description="Pass it as `before` to read on; null at the end.")
