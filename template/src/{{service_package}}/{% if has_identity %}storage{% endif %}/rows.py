"""Rows and what they stand for: the fields of an object in the domain have the names of its row's columns."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from marty_lib import Base, Database
from marty_lib.db import is_unique_violation
from sqlalchemy import JSON
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import TypeDecorator

R = TypeVar("R", bound=Base)
M = TypeVar("M")


class Words(TypeDecorator[frozenset[str]]):
    """A set of words, as a sorted list in JSON."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: frozenset[str] | None, dialect: Dialect) -> list[str]:
        """Return the words in order."""
        return sorted(value or ())

    def process_result_value(self, value: Any, dialect: Dialect) -> frozenset[str]:
        """Return the words as a set."""
        return frozenset(value)


class Texts(TypeDecorator[tuple[str, ...]]):
    """Texts in an order that matters, as a list in JSON."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> list[str]:
        """Return the texts."""
        return list(value or ())

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[str, ...]:
        """Return the texts as a tuple."""
        return tuple(value)


def row_of(table: type[R], kept: object) -> R:
    """Return the row that keeps an object."""
    names = (column.key for column in table.__mapper__.column_attrs if hasattr(kept, column.key))
    return table(**{name: getattr(kept, name) for name in names})


def model_of(model: type[M], row: Base, **more: Any) -> M:
    """Return the object that a row keeps; `more` is what is not in the row."""
    # That `model` is a dataclass has no type that is public.
    names = (field.name for field in fields(model) if field.name not in more)  # type: ignore[arg-type]
    return model(**{name: getattr(row, name) for name in names}, **more)


def models_of(model: type[M], rows: Iterable[Base]) -> list[M]:
    """Return the objects that rows keep."""
    return [model_of(model, row) for row in rows]


class Rows:
    """The base of what keeps things in the database, in the transaction under way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def _session(self) -> AsyncSession:
        return self._database.session

    async def _put(self, *rows: Base) -> None:
        """Keep new rows."""
        self._session.add_all(rows)
        await self._session.flush()

    async def _put_new(self, row: Base) -> bool:
        """Keep a new row; return False where another one has its place."""
        try:
            async with self._session.begin_nested():
                self._session.add(row)
        except IntegrityError as error:
            if is_unique_violation(error):
                return False
            raise
        return True
