"""Who is calling, and what the call needs: the same on every door, knowing neither tokens nor a framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from marty_lib import context
from marty_lib.errors import Forbidden, Unauthenticated


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling.

    Args:
        subject: the user or the client, as the issuer names it.
        client_id: the application that calls; empty where the issuer does not tell.
        permissions: what the caller may do, such as `orders:write`: scopes and permissions of the token alike.
        roles: what the caller is, such as `admin`.
        claims: all that the token says.
    """

    subject: str
    client_id: str = ""
    permissions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class Requirement:
    """What a call needs; made by `require`.

    Args:
        permissions: all of them are needed.
        roles: one of them is needed, where any is named.
    """

    def __init__(self, permissions: frozenset[str], roles: frozenset[str]) -> None:
        self.permissions = permissions
        self.roles = roles

    async def __call__(self) -> Principal:
        """Return who is calling.

        Raises:
            Unauthenticated: where nobody knows.
            Forbidden: where the caller lacks something.
        """
        current = context.current()
        principal = current.principal if current else None
        if not isinstance(principal, Principal):
            raise Unauthenticated("Send an access token.", headers={"WWW-Authenticate": "Bearer"})
        if missing := self.permissions - principal.permissions:
            raise _insufficient(f"This needs the permission {' '.join(sorted(missing))}.", self.permissions)
        if self.roles and not self.roles & principal.roles:
            raise _insufficient(f"This needs one of the roles {' '.join(sorted(self.roles))}.", self.permissions)
        return principal


def require(*permissions: str, roles: tuple[str, ...] = ()) -> Requirement:
    """Return a requirement: `Depends(require("orders:write"))` in FastAPI, `await require("orders:write")()` elsewhere.

    It looks at the principal that the door has put into the context: `Bearer` over HTTP, the interceptor over gRPC.

    Args:
        permissions: all of them are needed; none is any caller that is known.
        roles: one of them is needed, where any is named.
    """
    return Requirement(frozenset(permissions), frozenset(roles))


def _insufficient(detail: str, permissions: frozenset[str]) -> Forbidden:
    """Return the refusal as RFC 6750, section 3.1 has it."""
    scope = f', scope="{" ".join(sorted(permissions))}"' if permissions else ""
    return Forbidden(detail, headers={"WWW-Authenticate": f'Bearer error="insufficient_scope"{scope}'})
