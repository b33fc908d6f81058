"""Passwords: hashed with argon2id, in threads of their own and few at once, for a hash takes memory by design."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from marty_lib import FieldError

from .errors import WeakPassword

T = TypeVar("T")
LONGEST = 256


class Passwords:
    """Hashes passwords.

    Args:
        time_cost: passes over the memory.
        memory: of one hash, in KiB.
        lanes: threads that one hash may use.
        concurrency: how many are made at once; others wait.
        shortest: characters that a password must have.
    """

    def __init__(
        self, *, time_cost: int = 3, memory: int = 65_536, lanes: int = 4, concurrency: int = 2, shortest: int = 12
    ) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory, parallelism=lanes)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="argon2")
        self._shortest = shortest
        self._nobodys: str | None = None

    def check(self, password: str, *, email: str = "") -> None:
        """Refuse a password that is easy to find.

        Raises:
            WeakPassword: where it is too short or too long, one character again and again, or the user's address.
        """
        problem = ""
        if not self._shortest <= len(password) <= LONGEST:
            problem = f"must have {self._shortest} to {LONGEST} characters"
        elif len(set(password)) < 4 or (email and password.lower() in (email, email.partition("@")[0])):
            problem = "is too easy to guess"
        if problem:
            raise WeakPassword("Choose another password.", errors=[FieldError("/password", problem)])

    async def hash(self, password: str) -> str:
        """Return the hash of a password."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, password: str, kept: str | None) -> bool:
        """Return whether the password is the one; where nothing was kept, take as long and return False."""
        if kept is None:
            if self._nobodys is None:
                self._nobodys = await self.hash("nobody's password")
            await self._run(self._verify, password, self._nobodys)
            return False
        return await self._run(self._verify, password, kept)

    def is_outdated(self, kept: str) -> bool:
        """Return whether it was hashed at another cost than is paid today."""
        return self._hasher.check_needs_rehash(kept)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, kept: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, function: Callable[..., T], *arguments: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
