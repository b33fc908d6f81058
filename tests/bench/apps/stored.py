"""One row read by its key: `bare` on SQLAlchemy, `unit` on marty_lib.db without a stack, `service` with both."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.bench.apps.serving import serve_bare, serve_stack

if TYPE_CHECKING:
    from marty_lib import App
    from marty_lib.db import Database

URL = os.environ["DATABASE_URL"]


class Base(DeclarativeBase):
    """Of the one table."""


class Order(Base):
    """What is read."""

    __tablename__ = "bench_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    item: Mapped[str]
    quantity: Mapped[int]


class OrderOut(BaseModel):
    """What is answered."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    customer: str
    item: str
    quantity: int


def routes(session: Callable[[], AsyncIterator[AsyncSession]]) -> APIRouter:
    """Return the route; `session` is the dependency that gives it one."""
    router = APIRouter()

    @router.get("/orders/{number}", response_model=OrderOut)
    async def read(number: int, session: Annotated[AsyncSession, Depends(session, scope="function")]) -> Order:
        order = await session.get(Order, number)
        if order is None:
            raise HTTPException(404)
        return order

    return router


def bare() -> None:
    """Serve on what SQLAlchemy's documentation shows."""
    sessions = async_sessionmaker(create_async_engine(URL, pool_size=5, max_overflow=5), expire_on_commit=False)

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as opened:
            yield opened

    serve_bare(routes(session))


def database() -> "Database":
    """Return the library's own; a loaded machine must not make it refuse work."""
    from marty_lib.db import Database, DatabaseSettings
    from marty_lib.settings import SecretUrl

    return Database(DatabaseSettings(url=SecretUrl(URL), pool_timeout=30))


def unit() -> None:
    """Serve on the unit of work, and no stack."""
    serve_bare(routes(database().unit_of_work))


def service() -> None:
    """Serve as a service does."""

    def make(app: "App") -> APIRouter:
        return routes(app.add(database()).unit_of_work)

    serve_stack(make)


if __name__ == "__main__":
    {"bare": bare, "unit": unit, "service": service}[sys.argv.pop(1)]()
