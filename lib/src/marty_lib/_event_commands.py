"""What can be done with events from the command line: `asyncapi`, `dead-letters` and `redrive`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from marty_lib import _asyncapi, _redrive
from marty_lib.errors import StartError

if TYPE_CHECKING:
    from marty_lib.events import Consumer, Events

Command = Callable[[Sequence[str]], Awaitable[None]]


def commands(events: Events, consumer: Consumer) -> dict[str, Command]:
    """Return the commands of a service that consumes."""

    async def asyncapi(arguments: Sequence[str]) -> None:
        argparse.ArgumentParser("asyncapi", description="Print the AsyncAPI document.").parse_args(arguments)
        print(json.dumps(describe(events, consumer), indent=2))

    async def show(arguments: Sequence[str]) -> None:
        wanted = _parser("dead-letters", "Print the headers of dead letters, one a line.").parse_args(arguments)
        _refuse_memory(events)
        try:
            found = await consumer.dead_letters(wanted.limit or sys.maxsize)
        finally:
            await events.broker.close()
        for headers in found:
            print(json.dumps(headers))

    async def redrive(arguments: Sequence[str]) -> None:
        parser = _parser("redrive", "Have dead letters handled again.")
        parser.add_argument("--type", default="", help="only events of this type, such as order.placed")
        wanted = parser.parse_args(arguments)
        _refuse_memory(events)
        try:
            moved = await _redrive.redrive(
                events, consumer.group, consumer.topics, limit=wanted.limit, kind=wanted.type
            )
        finally:
            await events.broker.close()
        print(f"{moved} dead letters are handled again")

    return {"asyncapi": asyncapi, "dead-letters": show, "redrive": redrive}


def describe(events: Events, consumer: Consumer) -> dict[str, object]:
    """Return the AsyncAPI document of a service."""
    return _asyncapi.document(
        title=consumer.title,
        version=consumer.version,
        sent=events.publishes,
        received=consumer.subscriptions.values(),
    )


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(name, description=description)
    parser.add_argument("--limit", type=_count, help="how many at most; all by default")
    return parser


def _refuse_memory(events: Events) -> None:
    if str(events.settings.url).startswith("memory:"):
        raise StartError("EVENTS_URL is memory://, whose dead letters are in the service's own process: name a broker")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of dead letters: give 1 or more")
    return int(text)
