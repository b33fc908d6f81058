"""The tables of outbox and inbox."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from marty_lib.db import Base

PENDING = text("sent_at IS NULL")


class OutboxRow(Base):
    """An event that is to be published, or was."""

    __tablename__ = "outbox"
    # What is pending is found without looking at what was sent.
    __table_args__ = (
        Index("ix_outbox_pending", "id", postgresql_where=PENDING, sqlite_where=PENDING),
        Index("ix_outbox_sent_at", "sent_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    topic: Mapped[str] = mapped_column(String(255))
    key: Mapped[str] = mapped_column(String(255))
    headers: Mapped[str]
    value: Mapped[bytes] = mapped_column(LargeBinary)
    added_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class InboxRow(Base):
    """An event that was handled."""

    __tablename__ = "inbox"
    __table_args__ = (Index("ix_inbox_handled_at", "handled_at"),)

    group: Mapped[str] = mapped_column(String(255), primary_key=True)
    source: Mapped[str] = mapped_column(String(255), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    handled_at: Mapped[datetime]
