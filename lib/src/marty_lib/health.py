"""Health: live, ready and started, each for the question that Kubernetes asks with it.

Live asks nothing of anybody: it says that the event loop turns. Ready runs the checks of required dependencies, each
with a time-out, at most once a second however many ask, and changes its mind only after a few results in a row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from marty_lib import log

Check = Callable[[], Awaitable[object]]


class _Dependency:
    """One dependency's check and what is known of it."""

    def __init__(self, check: Check, *, required: bool, timeout: float, ttl: float, threshold: int) -> None:
        self.check = check
        self.required = required
        self.timeout = timeout
        self.ttl = ttl
        self.threshold = threshold
        self.up: bool | None = None
        self.reason = ""
        self.streak = 0
        self.checked = -float("inf")
        self.lock = asyncio.Lock()

    def record(self, reason: str) -> bool:
        """Take one result in ('' is good); return whether the verdict has changed.

        The first result counts at once, later ones when `threshold` in a row contradict the verdict.
        """
        passed = not reason
        self.reason = reason
        self.streak = 0 if passed == self.up else self.streak + 1
        if self.up is not None and self.streak < self.threshold:
            return False
        self.up, self.streak = passed, 0
        return True


class Health:
    """What the probes ask.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._dependencies: dict[str, _Dependency] = {}
        self.started = False
        self.draining = False

    def add(
        self,
        name: str,
        check: Check,
        *,
        required: bool = True,
        timeout: float = 1.0,
        ttl: float = 1.0,
        threshold: int = 2,
    ) -> None:
        """Have readiness ask after a dependency.

        Args:
            name: as shown in the answer and in `health_check_up`.
            check: raises where the dependency is unfit.
            required: whether the service cannot work without it; an optional one is shown only.
            timeout: seconds after which a check has failed.
            ttl: seconds for which a result is good.
            threshold: how many results in a row change the verdict.

        Raises:
            ValueError: where the name is taken.
        """
        if name in self._dependencies:
            raise ValueError(f"there is a health check named {name!r} already: choose another name")
        self._dependencies[name] = _Dependency(check, required=required, timeout=timeout, ttl=ttl, threshold=threshold)

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether requests should come here, and the answer's body. It names no address and no secret."""
        await asyncio.gather(*(self._refresh(name, found) for name, found in self._dependencies.items()))
        missing = [name for name, found in self._dependencies.items() if found.required and not found.up]
        state = "draining" if self.draining else "starting" if not self.started else "unready" if missing else "ready"
        checks = {
            name: {"up": bool(found.up), "required": found.required}
            | ({"reason": found.reason} if found.reason else {})
            for name, found in self._dependencies.items()
        }
        return state == "ready", {"status": state, "checks": checks}

    async def _refresh(self, name: str, dependency: _Dependency) -> None:
        async with dependency.lock:
            if self._clock() - dependency.checked < dependency.ttl:
                return
            reason = await _run(dependency)
            dependency.checked = self._clock()
            if dependency.record(reason):
                tell = log.get().info if dependency.up else log.get().warning
                tell("health.changed", check=name, up=dependency.up, reason=reason)

    def verdicts(self) -> dict[str, bool]:
        """Return what is known of each dependency, without asking anew."""
        return {name: bool(found.up) for name, found in self._dependencies.items()}


async def _run(dependency: _Dependency) -> str:
    """Return '' where the check passes, else the kind of failure: an exception's text may hold an address."""
    try:
        async with asyncio.timeout(dependency.timeout):
            await dependency.check()
    except TimeoutError:
        return "timeout"
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return type(error).__name__
    except Exception as error:
        return type(error).__name__
    return ""
