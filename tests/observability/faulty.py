"""A process in which goes wrong what goes well in the rendered services: `python -m tests.observability.faulty`.

Its breaker opens, its bulkhead is full, whom it calls is not there. What would need an outage of Redis, of a broker or
of an issuer is counted on the library's own counters: that these count is what the library's tests show.
"""

from __future__ import annotations

import contextlib
from typing import Any

from marty_lib import (
    App,
    ServiceSettings,
    _jwks,
    _tokens,
    _write_behind,
    lock,
    main,
    metrics,
    ratelimit,
)
from marty_lib.grpc import create_channel
from marty_lib.resilience import Breaker, Bulkhead


class Faults:
    """The component in which they happen."""

    name = "faults"

    async def start(self) -> None:
        """Let them happen."""
        breaker = Breaker("stock", threshold=1, pause=600)
        channel = create_channel("127.0.0.1:1", name="stock", timeout=0.5, breaker=breaker)
        call: Any = channel.unary_unary("/stock.v1.Stock/Reserve")
        with contextlib.suppress(Exception):
            await call(b"")
        await channel.close()
        with contextlib.suppress(Exception):
            async with Bulkhead("images", 0):
                pass

    def count(self) -> None:
        """Count those of outages."""
        metrics.UNHANDLED.labels("http").inc()
        metrics.DEAD_LETTERS.labels("orders", "ValueError").inc()
        metrics.EVENTS_HANDLED.observe(0.1, "orders", "order.placed", "error")
        metrics.EVENTS_PUBLISHED.observe(0.1, "error")
        metrics.WORKER_DURATION.observe(0.1, "housekeeping", "error")
        lock.TAKEN.labels("stock", "lost").inc()
        ratelimit.CHECKS.labels("writes", "allowed", "local").inc()
        _write_behind.FAILURES.labels("views").inc()
        _jwks.FETCHED.labels("error").inc()
        _tokens.TOKENS.labels("expired").inc()

    async def stop(self) -> None:
        """Have nothing to close."""


def create_app(settings: ServiceSettings) -> App:
    """Return the process."""
    app = App(settings, name="faulty", version="1.0.0")
    faults = Faults()
    faults.count()
    app.add(faults)
    return app


if __name__ == "__main__":
    main(ServiceSettings, create_app)
