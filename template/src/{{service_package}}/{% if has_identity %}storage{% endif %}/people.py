"""Users, roles and sessions in the database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from marty_lib.db import found, keyset
from sqlalchemy import delete, select, update

from ..domain.models import Session, User
from .rows import Rows, model_of, models_of, row_of
from .tables import RecoveryCodeRow, RoleRow, SessionRow, UserRoleRow, UserRow

COLUMNS = ("email", "name", "password_hash", "email_verified", "disabled", "totp_secret", "totp_confirmed")


class SqlUsers(Rows):
    """People and their roles."""

    async def add(self, user: User) -> bool:
        """Keep a new user; return False where the address is taken."""
        if not await self._put_new(row_of(UserRow, user)):
            return False
        await self._put_roles(user)
        return True

    async def get(self, user_id: UUID) -> User | None:
        """Return a user, or None."""
        return await self._full(await self._session.get(UserRow, user_id))

    async def by_email(self, email: str) -> User | None:
        """Return the user of an address in lower case, or None."""
        return await self._full(await self._session.scalar(select(UserRow).where(UserRow.email == email)))

    async def replace(self, user: User) -> None:
        """Keep the changed user; `totp_step` is left alone."""
        columns = {name: getattr(user, name) for name in COLUMNS}
        await self._session.execute(update(UserRow).where(UserRow.id == user.id).values(columns))
        await self._put_roles(user)

    async def page(self, *, after: UUID | None, limit: int) -> Sequence[User]:
        """Return users in the order of their ids."""
        statement = keyset(select(UserRow), [UserRow.id], after=None if after is None else [after], limit=limit)
        rows = await self._session.scalars(statement)
        return [user for row in rows.all() if (user := await self._full(row)) is not None]

    async def use_step(self, user_id: UUID, step: int) -> bool:
        """Note that a step's code is used; return False where it, or a later one, was used before."""
        fresh = update(UserRow).where(UserRow.id == user_id, UserRow.totp_step < step).values(totp_step=step)
        return await found(self._session, fresh)

    async def put_recovery_codes(self, user_id: UUID, digests: Sequence[str]) -> None:
        """Keep these recovery codes, and no others."""
        await self._session.execute(delete(RecoveryCodeRow).where(RecoveryCodeRow.user_id == user_id))
        await self._put(*(RecoveryCodeRow(user_id=user_id, digest=digest) for digest in digests))

    async def use_recovery_code(self, user_id: UUID, digest: str) -> bool:
        """Use a recovery code up; return False where there is no such one."""
        mine = delete(RecoveryCodeRow).where(RecoveryCodeRow.user_id == user_id, RecoveryCodeRow.digest == digest)
        return await found(self._session, mine)

    async def _put_roles(self, user: User) -> None:
        session = self._session
        kept = set((await session.scalars(select(UserRoleRow.role).where(UserRoleRow.user_id == user.id))).all())
        if gone := kept - user.roles:
            await session.execute(delete(UserRoleRow).where(UserRoleRow.user_id == user.id, UserRoleRow.role.in_(gone)))
        await self._put(*(UserRoleRow(user_id=user.id, role=role) for role in user.roles - kept))

    async def _full(self, row: UserRow | None) -> User | None:
        if row is None:
            return None
        await self._session.refresh(row)
        held = select(RoleRow).join(UserRoleRow, UserRoleRow.role == RoleRow.name).where(UserRoleRow.user_id == row.id)
        roles = (await self._session.scalars(held)).all()
        permissions = frozenset(permission for role in roles for permission in role.permissions)
        return model_of(User, row, roles=frozenset(role.name for role in roles), permissions=permissions)


class SqlRoles(Rows):
    """Roles and the permissions that each holds."""

    async def put(self, name: str, permissions: frozenset[str]) -> None:
        """Define a role."""
        await self._session.merge(RoleRow(name=name, permissions=permissions))
        await self._session.flush()

    async def all(self) -> Mapping[str, frozenset[str]]:
        """Return every role."""
        rows = await self._session.scalars(select(RoleRow).order_by(RoleRow.name))
        return {row.name: row.permissions for row in rows}


class SqlSessions(Rows):
    """Browsers that are logged in."""

    async def add(self, session: Session) -> None:
        """Keep a new session."""
        await self._put(row_of(SessionRow, session))

    async def get(self, session_id: UUID) -> Session | None:
        """Return a session, or None."""
        row = await self._session.get(SessionRow, session_id)
        return model_of(Session, row) if row else None

    async def by_token(self, digest: str) -> Session | None:
        """Return the session of a cookie, or None."""
        row = await self._session.scalar(select(SessionRow).where(SessionRow.token_digest == digest))
        return model_of(Session, row) if row else None

    async def of(self, user_id: UUID) -> Sequence[Session]:
        """Return a user's sessions, newest first."""
        statement = select(SessionRow).where(SessionRow.user_id == user_id).order_by(SessionRow.created_at.desc())
        return models_of(Session, await self._session.scalars(statement))

    async def remove(self, session_ids: Sequence[UUID]) -> None:
        """End sessions."""
        await self._session.execute(delete(SessionRow).where(SessionRow.id.in_(session_ids)))

    async def remove_expired(self, before: datetime) -> None:
        """Forget sessions that ended before."""
        await self._session.execute(delete(SessionRow).where(SessionRow.expires_at < before))
