"""What the tests of events share."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from marty_lib import App, Consumer, Events

Poll = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


@pytest.fixture
def events(app: App) -> Events:
    """The service's connection to the broker."""
    return next(part for part in app.components if isinstance(part, Events))


@pytest.fixture
def consumer(app: App) -> Consumer:
    """The service's consumer."""
    return next(part for part in app.components if isinstance(part, Consumer))


@pytest.fixture
def eventually() -> Poll:
    """A function that polls until its argument returns something true."""

    async def poll(condition: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(20):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    return poll
