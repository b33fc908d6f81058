"""What tables and statements are made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVarTuple

from sqlalchemy import DateTime, MetaData, Select, tuple_
from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import TypeDecorator

Columns = TypeVarTuple("Columns")
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: with a time zone on the way in, in UTC on the way out, whatever the database makes of it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC.

        Raises:
            ValueError: where it has no time zone.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone: use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment with its zone, which SQLite forgets."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base of a service's tables: every constraint has a name, so that migrations can change it."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime}


def keyset(
    statement: Select[*Columns],
    columns: Sequence[InstrumentedAttribute[Any]],
    *,
    after: Sequence[object] | None,
    limit: int,
    newest_first: bool = False,
) -> Select[*Columns]:
    """Return the statement for one page: as fast for the last as for the first, with an index on `columns`.

    Args:
        statement: selects what the whole list would hold.
        columns: the order of the list; together they are unique.
        after: their values in the last row that has been seen; None begins the list.
        limit: how many rows at most.
        newest_first: whether the order is descending.
    """
    if after is not None:
        place = tuple_(*columns)
        # One comparison of rows, which an index answers; a chain of OR would not.
        statement = statement.where(place < tuple(after) if newest_first else place > tuple(after))
    return statement.order_by(*(column.desc() if newest_first else column for column in columns)).limit(limit)


async def found(session: AsyncSession, statement: UpdateBase) -> bool:
    """Execute an UPDATE or DELETE; return whether there was a row of its WHERE, such as one of the expected version."""
    result = await session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount > 0
