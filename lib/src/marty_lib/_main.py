"""A service's command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

from marty_lib import log
from marty_lib._app import App
from marty_lib.errors import StartError
from marty_lib.settings import ServiceSettings, SettingsError, load, reference

S = TypeVar("S", bound=ServiceSettings)
Command = Callable[[Sequence[str]], Awaitable[None]]


def main(settings: type[S], create_app: Callable[[S], App]) -> NoReturn:
    """Be the service's command: run it; with the argument `settings` print what can be set, else be a part's command.

    Args:
        settings: the service's settings class.
        create_app: makes the App from the settings.
    """
    if sys.argv[1:] == ["settings"]:
        print(reference(settings.model_construct()))
        sys.exit(0)
    try:
        app = create_app(load(settings))
        if sys.argv[1:]:
            _run(app, *sys.argv[1:])
    except (SettingsError, StartError) as error:
        sys.exit(str(error))
    app.run()


def _run(app: App, name: str, *arguments: str) -> NoReturn:
    """Run the command of that name of one of the app's components, and exit."""
    commands = _commands(app)
    if name not in commands:
        known = ", ".join(f"`{command}`" for command in ("settings", *commands))
        sys.exit(f"unknown arguments {' '.join([name, *arguments])}: give none to run the service, or one of {known}")
    log.configure(app.settings.log, service=app.name, version=app.version)
    asyncio.run(_awaited(commands[name](arguments)))
    log.output.flush()
    sys.exit(0)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _commands(app: App) -> dict[str, Command]:
    return {name: command for part in app.components for name, command in getattr(part, "commands", {}).items()}
