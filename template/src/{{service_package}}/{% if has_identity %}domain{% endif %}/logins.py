"""Logging in: a password, a second factor where there is one, and a session of the browser."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from . import totp
from .errors import WrongCredentials
from .journal import Journal
from .models import Session, User
from .passwords import Passwords
from .stores import Grants, Sessions, ShortLived, Transaction, Users
from .throttle import Limit, Throttle
from .vault import Vault, digest, new_secret

PENDING = 300
"""Seconds that the second factor may take."""


@dataclass(frozen=True, slots=True)
class Origin:
    """From where somebody logs in."""

    address: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a login may fail, for one account and from one address."""

    account: Limit
    address: Limit


class LoginService:
    """Lets users in.

    Args:
        users: who there is.
        sessions: browsers that are logged in.
        grants: which end with their session.
        short_lived: logins whose second factor is missing.
        passwords: hashes.
        vault: opens the seeds of second factors.
        throttle: slows down who guesses.
        journal: of what happened.
        transaction: opens a unit of work.
        limits: how often it may fail.
        lifetime: of a session.
        now: the time, in UTC.
    """

    def __init__(
        self,
        users: Users,
        sessions: Sessions,
        grants: Grants,
        short_lived: ShortLived,
        passwords: Passwords,
        vault: Vault,
        throttle: Throttle,
        journal: Journal,
        transaction: Transaction,
        *,
        limits: Limits,
        lifetime: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._grants = grants
        self._short_lived = short_lived
        self._passwords = passwords
        self._vault = vault
        self._throttle = throttle
        self._journal = journal
        self._transaction = transaction
        self._limits = limits
        self._lifetime = lifetime
        self._now = now

    async def with_password(self, email: str, password: str, origin: Origin) -> User:
        """Return the user of an address and a password.

        Raises:
            WrongCredentials: where there is none; it takes as long and says the same, whatever was wrong.
            LockedOut: where too many attempts have failed.
        """
        email = email.strip().lower()
        account = f"account:{hashlib.sha256(email.encode()).hexdigest()}"
        address = f"address:{origin.address}"
        await self._throttle.attempt(address, self._limits.address)
        await self._throttle.attempt(account, self._limits.account)
        async with self._transaction():
            user = await self._users.by_email(email)
        right = await self._passwords.matches(password, user.password_hash if user else None)
        if user is None or user.disabled or not right:
            await self._journal.alone("login.failed", subject=user.id if user else "")
            raise WrongCredentials("The address or the password is wrong.")
        await self._throttle.succeed(account)
        await self._throttle.pardon(address)
        if self._passwords.is_outdated(user.password_hash):
            await self._rehash(user, password)
        return user

    async def _rehash(self, user: User, password: str) -> None:
        changed = replace(user, password_hash=await self._passwords.hash(password))
        async with self._transaction():
            await self._users.replace(changed)
            await self._journal.note("password.rehashed", subject=user.id)

    async def suspend(self, user: User) -> str:
        """Return the secret under which a login waits for its second factor."""
        secret = new_secret()
        await self._short_lived.put_login(digest(secret), user.id, PENDING)
        return secret

    async def with_code(self, secret: str, code: str, origin: Origin) -> User:
        """Return the user of a suspended login and a one-time or recovery code.

        Raises:
            WrongCredentials: where the login is over, or the code is wrong or used.
            LockedOut: where too many attempts have failed.
        """
        user_id = await self._short_lived.login(digest(secret))
        if user_id is None:
            raise WrongCredentials("The login took too long: begin again.")
        await self._throttle.attempt(f"code:{user_id}", self._limits.account)
        async with self._transaction():
            user = await self._users.get(user_id)
            right = user is not None and not user.disabled and await self._is_code(user, code)
            if not right:
                await self._journal.note("login.code_failed", subject=user_id)
        if user is None or not right:
            raise WrongCredentials("The code is wrong, or was used before.")
        await self._throttle.succeed(f"code:{user_id}")
        await self._short_lived.remove_login(digest(secret))
        return user

    async def _is_code(self, user: User, code: str) -> bool:
        if user.totp_secret is None:
            return False
        step = totp.step_of(code, self._vault.open(user.totp_secret), self._now(), after=user.totp_step)
        if step is not None:
            return await self._users.use_step(user.id, step)
        used = await self._users.use_recovery_code(user.id, digest(totp.normalised(code)))
        if used:
            await self._journal.note("recovery_code.used", subject=user.id)
        return used

    async def begin(self, user: User, methods: tuple[str, ...], origin: Origin) -> tuple[Session, str]:
        """Return a new session, and the secret for the browser's cookie."""
        secret, moment = new_secret(), self._now()
        session = Session(
            uuid4(),
            user.id,
            digest(secret),
            moment,
            moment + self._lifetime,
            methods,
            origin.address,
            origin.agent[:200],
        )
        async with self._transaction():
            await self._sessions.add(session)
            await self._journal.note("login.succeeded", subject=user.id, methods=" ".join(methods))
        return session, secret

    async def current(self, secret: str) -> tuple[Session, User] | None:
        """Return the session of a cookie and its user, or None."""
        async with self._transaction():
            session = await self._sessions.by_token(digest(secret))
            if session is None or session.expires_at <= self._now():
                return None
            user = await self._users.get(session.user_id)
        return None if user is None or user.disabled else (session, user)

    async def end(self, session_ids: list[UUID], *, because: str) -> None:
        """End sessions, and with them what their user has allowed in them."""
        async with self._transaction():
            for session_id in session_ids:
                session = await self._sessions.get(session_id)
                if session is not None:
                    await self._journal.note("session.ended", subject=session.user_id, because=because)
            await self._grants.revoke_of(session_ids)
            await self._sessions.remove(session_ids)
