"""A circuit breaker: after failures in a row nobody asks for a while, then one asks and the others wait and see."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from prometheus_client import Counter, Gauge

from marty_lib import log
from marty_lib.errors import ServiceError, Unavailable

State = Literal["closed", "half-open", "open"]
STATE = Gauge("breaker_state", "0 closed: asked as usual; 1 half-open: one tries; 2 open: nobody asks.", ["breaker"])
REFUSED = Counter("breaker_refused_total", "Work refused because a breaker was not closed.", ["breaker"])
_LEVELS: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}
CODE = "circuit-open"


def is_failure(error: BaseException) -> bool:
    """Return whether an error speaks against who was asked: not where it is the caller's own, or the work was ended."""
    if isinstance(error, ServiceError):
        return int(error.status) >= 500
    return isinstance(error, Exception)


class Breaker:
    """Use it around the work: `with breaker: ...`.

    Args:
        name: as shown in errors, logs and metrics.
        threshold: failures in a row that open it.
        pause: seconds until one may try, and for which others wait for that one's result.
        failure: whether an error counts as one.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        *,
        threshold: int = 5,
        pause: float = 10.0,
        failure: Callable[[BaseException], bool] = is_failure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.state: State = "closed"
        self._threshold = threshold
        self._pause = pause
        self._failure = failure
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        STATE.labels(name).set(0)

    def admit(self) -> None:
        """Return where the work may be tried; tell the result to `record`.

        Raises:
            Unavailable: where it may not.
        """
        if self.state == "closed":
            return
        left = self._until - self._clock()
        if left > 0:
            REFUSED.labels(self.name).inc()
            raise Unavailable(
                f"{self.name} has failed too often: ask again.", code=CODE, headers={"Retry-After": str(int(left) + 1)}
            )
        # One that never tells its result is forgotten after as long.
        self._until = self._clock() + self._pause
        self._become("half-open")

    def record(self, error: BaseException | None) -> None:
        """Take the result of work that was admitted: what it has raised, or None."""
        if error is None:
            self._failures = 0
            self._become("closed")
        elif not self._failure(error):
            # An answer, if an unwelcome one; work that was only ended says nothing.
            if isinstance(error, Exception):
                self.record(None)
            elif self.state == "half-open":
                self._until = self._clock()
        else:
            self._failures += 1
            if self.state != "closed" or self._failures >= self._threshold:
                self._until = self._clock() + self._pause
                self._become("open")

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            STATE.labels(self.name).set(_LEVELS[state])
            tell = log.get().info if state == "closed" else log.get().warning
            tell("breaker.changed", breaker=self.name, state=state)

    def __enter__(self) -> None:
        self.admit()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.record(error)
