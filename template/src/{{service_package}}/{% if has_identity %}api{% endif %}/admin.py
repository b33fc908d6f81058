"""What administrators do: users, roles, clients, keys, the journal."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from marty_lib import Bearer, require

from ..domain.accounts import AccountService
from ..domain.clients import ClientService, Registration
from ..domain.journal import Journal
from ..domain.keys import Keyring
from .schemas import (
    ClientIn,
    ClientOut,
    EventOut,
    EventPage,
    KeyOut,
    NewClient,
    RoleIn,
    RoleOut,
    RotationIn,
    UserChange,
    UserIn,
    UserOut,
    UserPage,
)

PERMISSIONS = frozenset(
    {
        "audit:read",
        "clients:read",
        "clients:write",
        "keys:rotate",
        "roles:read",
        "roles:write",
        "tokens:read",
        "users:read",
        "users:write",
    }
)
"""What this API and the calls of `rpc/` ask for; the bootstrap client has all of them."""
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]


def needs(permission: str) -> list[Any]:
    """Return the dependencies of a route that needs a permission."""
    return [Depends(require(permission))]


def user_routes(accounts: AccountService, bearer: Bearer) -> APIRouter:
    """Return the routes of users and roles."""
    router = APIRouter(prefix="/v1", tags=["users"], dependencies=[Depends(bearer)])

    @router.post("/users", status_code=201, dependencies=needs("users:write"))
    async def create_user(new: UserIn) -> UserOut:
        user = await accounts.create(
            email=new.email,
            name=new.name,
            password=new.password.get_secret_value(),
            roles=new.roles,
            email_verified=new.email_verified,
        )
        return UserOut.of(user)

    @router.get("/users", dependencies=needs("users:read"))
    async def list_users(after: UUID | None = None, limit: Limit = 20) -> UserPage:
        found = await accounts.page(after=after, limit=limit + 1)
        items = [UserOut.of(user) for user in found[:limit]]
        return UserPage(items=items, next=items[-1].id if len(found) > limit else None)

    @router.get("/users/{user_id}", dependencies=needs("users:read"))
    async def get_user(user_id: UUID) -> UserOut:
        return UserOut.of(await accounts.get(user_id))

    @router.patch("/users/{user_id}", dependencies=needs("users:write"))
    async def change_user(user_id: UUID, change: UserChange) -> UserOut:
        user = await accounts.change(
            user_id, roles=change.roles, disabled=change.disabled, email_verified=change.email_verified
        )
        return UserOut.of(user)

    @router.delete("/users/{user_id}/sessions", status_code=204, dependencies=needs("users:write"))
    async def end_sessions(user_id: UUID) -> None:
        await accounts.end_sessions(user_id, because="ended by an administrator")

    @router.delete("/users/{user_id}/second-factor", status_code=204, dependencies=needs("users:write"))
    async def remove_second_factor(user_id: UUID) -> None:
        await accounts.remove_second_factor(user_id, None)

    @router.put("/roles/{name}", dependencies=needs("roles:write"))
    async def define_role(name: Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,49}$")], role: RoleIn) -> RoleOut:
        await accounts.define_role(name, role.permissions)
        return RoleOut(name=name, permissions=sorted(role.permissions))

    @router.get("/roles", dependencies=needs("roles:read"))
    async def list_roles() -> list[RoleOut]:
        roles = await accounts.roles()
        return [RoleOut(name=name, permissions=sorted(permissions)) for name, permissions in roles.items()]

    return router


def operator_routes(clients: ClientService, keyring: Keyring, journal: Journal, bearer: Bearer) -> APIRouter:
    """Return the routes of clients, keys and the journal."""
    router = APIRouter(prefix="/v1", tags=["operation"], dependencies=[Depends(bearer)])

    @router.post("/clients", status_code=201, dependencies=needs("clients:write"))
    async def register_client(new: ClientIn) -> NewClient:
        wanted = Registration(
            name=new.name,
            confidential=new.confidential,
            redirect_uris=tuple(new.redirect_uris),
            grants=new.grants,
            scopes=new.scopes,
            audiences=tuple(new.audiences),
            trusted=new.trusted,
        )
        return NewClient.with_secret(*await clients.register(wanted))

    @router.get("/clients", dependencies=needs("clients:read"))
    async def list_clients() -> list[ClientOut]:
        return [ClientOut.of(client) for client in await clients.all()]

    @router.delete("/clients/{client_id}", status_code=204, dependencies=needs("clients:write"))
    async def remove_client(client_id: str) -> None:
        await clients.remove(client_id)

    @router.post("/keys/rotate", dependencies=needs("keys:rotate"))
    async def rotate_keys(how: RotationIn) -> KeyOut:
        key = await keyring.rotate(at_once=how.at_once, withdraw=how.withdraw)
        await journal.alone("keys.rotated", kid=key.kid, at_once=how.at_once, withdraw=how.withdraw)
        return KeyOut(kid=key.kid, active_from=key.active_from)

    @router.get("/audit", dependencies=needs("audit:read"))
    async def read_journal(before: int | None = None, limit: Limit = 20) -> EventPage:
        found = await journal.page(before=before, limit=limit + 1)
        items = [EventOut.of(number, event) for number, event in found[:limit]]
        return EventPage(items=items, next=items[-1].id if len(found) > limit else None)

    return router
