"""Accounts: made and changed by administrators, looked after by their users."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from marty_lib import FieldError

from . import totp
from .errors import (
    EmailTaken,
    NoSuchRole,
    NoSuchSession,
    NoSuchUser,
    SecondFactorExists,
    WrongCode,
    WrongCredentials,
)
from .journal import Journal
from .logins import LoginService
from .models import Session, User
from .passwords import Passwords
from .stores import Roles, Sessions, Transaction, Users
from .throttle import Limit, Throttle
from .vault import Vault, digest

TRIES = Limit(5)


class AccountService:
    """What can be done with accounts.

    Args:
        users: who there is.
        roles: what they may be.
        sessions: browsers that are logged in.
        logins: ends sessions.
        passwords: hashes.
        vault: seals the seeds of second factors.
        throttle: slows down who guesses.
        journal: of what happened.
        transaction: opens a unit of work.
        issuer: as authenticator apps show it.
        now: the time, in UTC.
    """

    def __init__(
        self,
        users: Users,
        roles: Roles,
        sessions: Sessions,
        logins: LoginService,
        passwords: Passwords,
        vault: Vault,
        throttle: Throttle,
        journal: Journal,
        transaction: Transaction,
        *,
        issuer: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._users = users
        self._roles = roles
        self._sessions = sessions
        self._logins = logins
        self._passwords = passwords
        self._vault = vault
        self._throttle = throttle
        self._journal = journal
        self._transaction = transaction
        self._issuer = issuer
        self._now = now

    async def create(
        self, *, email: str, name: str, password: str, roles: frozenset[str], email_verified: bool = False
    ) -> User:
        """Make an account.

        Raises:
            EmailTaken: where another user has that address.
            WeakPassword: where the password is easy to find.
            NoSuchRole: where a role is not defined.
        """
        email = email.lower()
        self._passwords.check(password, email=email)
        hashed = await self._passwords.hash(password)
        async with self._transaction():
            await self._expect_roles(roles)
            user = User(uuid4(), email, name, hashed, self._now(), roles=roles, email_verified=email_verified)
            if not await self._users.add(user):
                raise EmailTaken("Another user has that address.")
            await self._journal.note("user.created", subject=user.id)
        return user

    async def get(self, user_id: UUID) -> User:
        """Return a user.

        Raises:
            NoSuchUser: where there is none of that id.
        """
        async with self._transaction():
            return await self._expect(user_id)

    async def page(self, *, after: UUID | None, limit: int) -> Sequence[User]:
        """Return users in the order of their ids."""
        async with self._transaction():
            return await self._users.page(after=after, limit=limit)

    async def change(
        self,
        user_id: UUID,
        *,
        roles: frozenset[str] | None = None,
        disabled: bool | None = None,
        email_verified: bool | None = None,
    ) -> User:
        """Change an account; disabling it ends its sessions.

        Raises:
            NoSuchUser: where there is none of that id.
            NoSuchRole: where a role is not defined.
        """
        async with self._transaction():
            user = await self._expect(user_id)
            await self._expect_roles(roles or frozenset())
            user = replace(
                user,
                roles=user.roles if roles is None else roles,
                disabled=user.disabled if disabled is None else disabled,
                email_verified=user.email_verified if email_verified is None else email_verified,
            )
            await self._users.replace(user)
            await self._journal.note(
                "user.changed", subject=user_id, roles=" ".join(sorted(user.roles)), disabled=user.disabled
            )
            if user.disabled:
                await self.end_sessions(user_id, because="disabled")
            return await self._expect(user_id)

    async def define_role(self, name: str, permissions: frozenset[str]) -> None:
        """Define a role, or define it anew."""
        async with self._transaction():
            await self._roles.put(name, permissions)
            await self._journal.note("role.defined", name=name, permissions=" ".join(sorted(permissions)))

    async def roles(self) -> Mapping[str, frozenset[str]]:
        """Return the roles and their permissions."""
        async with self._transaction():
            return await self._roles.all()

    async def change_password(self, user_id: UUID, *, current: str, new: str) -> None:
        """Change a user's password, and end all of their sessions.

        Raises:
            WrongCredentials: where the current one is wrong.
            WeakPassword: where the new one is easy to find.
        """
        user = await self.get(user_id)
        await self._throttle.attempt(f"password:{user_id}", TRIES)
        if not await self._passwords.matches(current, user.password_hash):
            await self._journal.alone("password.change_failed", subject=user_id)
            raise WrongCredentials("The current password is wrong.")
        self._passwords.check(new, email=user.email)
        hashed = await self._passwords.hash(new)
        await self._throttle.succeed(f"password:{user_id}")
        async with self._transaction():
            await self._users.replace(replace(await self._expect(user_id), password_hash=hashed))
            await self._journal.note("password.changed", subject=user_id)
            await self.end_sessions(user_id, because="password changed")

    async def sessions(self, user_id: UUID) -> Sequence[Session]:
        """Return a user's sessions, newest first."""
        async with self._transaction():
            return [session for session in await self._sessions.of(user_id) if session.expires_at > self._now()]

    async def end_session(self, user_id: UUID, session_id: UUID, *, because: str = "ended") -> None:
        """End one of a user's sessions.

        Raises:
            NoSuchSession: where the user has none of that id.
        """
        if session_id not in [session.id for session in await self.sessions(user_id)]:
            raise NoSuchSession(f"There is no session {session_id}.")
        await self._logins.end([session_id], because=because)

    async def end_sessions(self, user_id: UUID, *, because: str = "ended") -> None:
        """End all sessions of a user."""
        async with self._transaction():
            await self._logins.end([session.id for session in await self._sessions.of(user_id)], because=because)

    async def begin_second_factor(self, user_id: UUID) -> tuple[str, str]:
        """Return a new seed in base32, and the address for authenticator apps; it counts once it is confirmed.

        Raises:
            SecondFactorExists: where there is one already.
        """
        seed = totp.new_seed()
        async with self._transaction():
            user = await self._expect(user_id)
            if user.has_second_factor:
                raise SecondFactorExists("There is a second factor already: remove it first.")
            await self._users.replace(replace(user, totp_secret=self._vault.seal(seed)))
        return totp.base32(seed), totp.uri(seed, account=user.email, issuer=self._issuer)

    async def confirm_second_factor(self, user_id: UUID, code: str) -> list[str]:
        """Let the second factor count from now on; return the recovery codes, which are never shown again.

        Raises:
            WrongCode: where the code is wrong.
            SecondFactorExists: where it counts already.
        """
        codes = totp.new_recovery_codes()
        await self._throttle.attempt(f"code:{user_id}", TRIES)
        async with self._transaction():
            user = await self._expect(user_id)
            if user.has_second_factor:
                raise SecondFactorExists("There is a second factor already: remove it first.")
            await self._use_code(user, code)
            await self._users.replace(replace(user, totp_confirmed=True))
            await self._users.put_recovery_codes(user_id, [digest(each) for each in codes])
            await self._journal.note("second_factor.added", subject=user_id)
        await self._throttle.succeed(f"code:{user_id}")
        return codes

    async def remove_second_factor(self, user_id: UUID, code: str | None) -> None:
        """Remove the second factor; None is an administrator, who needs no code.

        Raises:
            WrongCode: where the code is wrong.
        """
        if code is not None:
            await self._throttle.attempt(f"code:{user_id}", TRIES)
        async with self._transaction():
            user = await self._expect(user_id)
            if code is not None:
                await self._use_code(user, code)
            await self._users.replace(replace(user, totp_secret=None, totp_confirmed=False))
            await self._users.put_recovery_codes(user_id, [])
            await self._journal.note("second_factor.removed", subject=user_id, by="user" if code else "administrator")

    async def _use_code(self, user: User, code: str) -> None:
        seed = self._vault.open(user.totp_secret) if user.totp_secret else b""
        step = totp.step_of(code, seed, self._now(), after=user.totp_step) if seed else None
        if step is None or not await self._users.use_step(user.id, step):
            raise WrongCode("The code is wrong.", errors=[FieldError("/code", "is wrong, or was used before")])

    async def _expect(self, user_id: UUID) -> User:
        user = await self._users.get(user_id)
        if user is None:
            raise NoSuchUser(f"There is no user {user_id}.")
        return user

    async def _expect_roles(self, roles: frozenset[str]) -> None:
        if unknown := roles - set(await self._roles.all()):
            wrong = FieldError("/roles", f"knows no {', '.join(sorted(unknown))}")
            raise NoSuchRole("A role is not defined.", errors=[wrong])
