"""The journal: an event for everything that somebody may ask about later, in the database and in the log."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime

from marty_lib import context, log
from prometheus_client import Counter

from .models import AuditEvent
from .stores import Audit, Transaction

NOTED = Counter("audit_events", "Events of the journal, by their name.", ["event"])

_address: ContextVar[str] = ContextVar("caller_address", default="")


def caller_is_at(address: str) -> None:
    """Let the events of this request tell from where it came."""
    _address.set(address)


class Journal:
    """Notes events.

    Args:
        audit: where they are kept.
        transaction: opens a unit of work.
        now: the time, in UTC.
    """

    def __init__(
        self, audit: Audit, transaction: Transaction, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._audit = audit
        self._transaction = transaction
        self._now = now

    async def note(self, event: str, *, subject: object = "", client_id: str = "", **details: object) -> None:
        """Note an event in the transaction under way: it has happened if that commits.

        Args:
            event: its name, such as `login.failed`.
            subject: the user it is about.
            client_id: the client it is about.
            details: more of it; nothing secret.
        """
        request = context.current()
        noted = AuditEvent(
            self._now(), event, str(subject), client_id, _address.get(), request.request_id if request else "", details
        )
        await self._audit.add(noted)
        NOTED.labels(event).inc()
        log.get().info(f"audit.{event}", subject=noted.subject, client_id=client_id, address=noted.address, **details)

    async def alone(self, event: str, *, subject: object = "", client_id: str = "", **details: object) -> None:
        """Note an event by itself, so that it stays whatever becomes of the request."""
        async with self._transaction():
            await self.note(event, subject=subject, client_id=client_id, **details)

    async def page(self, *, before: int | None, limit: int) -> Sequence[tuple[int, AuditEvent]]:
        """Return events and their numbers, newest first."""
        async with self._transaction():
            return await self._audit.page(before=before, limit=limit)
