"""Lockout: after some failures each further attempt has to wait twice as long, whether or not there is such a user."""

from dataclasses import dataclass

from prometheus_client import Counter

from .errors import LockedOut
from .stores import Attempts

LOCKOUTS = Counter("auth_lockouts", "Attempts refused because they came before the wait was over.")
MEMORY = 86_400
"""Seconds after the first failure after which all are forgotten."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How often something may fail.

    Args:
        free: failures without a wait.
        longest: seconds of the longest wait.
    """

    free: int
    longest: float = 900.0

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after so many failures."""
        return min(2.0 ** min(failures - self.free, 30), self.longest) if failures > self.free else 0.0


class Throttle:
    """Slows down who guesses.

    Args:
        attempts: where they are counted, by all replicas together.
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def attempt(self, name: str, limit: Limit) -> None:
        """Count an attempt before it is made, so that many at once are counted too.

        Raises:
            LockedOut: where it comes too early.
        """
        wait = await self._attempts.locked_for(name)
        if not wait:
            seconds = limit.wait(await self._attempts.count(name, MEMORY))
            if not seconds or await self._attempts.lock(name, seconds):
                return
            wait = seconds
        LOCKOUTS.inc()
        raise LockedOut("Too many attempts have failed: wait.", headers={"Retry-After": f"{max(1, round(wait))}"})

    async def succeed(self, name: str) -> None:
        """Forget the failures."""
        await self._attempts.forget(name)

    async def pardon(self, name: str) -> None:
        """Take the attempt back, for it was none, and forget no other: of those who share an address one may guess."""
        await self._attempts.uncount(name)
