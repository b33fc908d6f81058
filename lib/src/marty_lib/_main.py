"""A service's command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from marty_lib._app import App
from marty_lib.errors import StartError
from marty_lib.settings import ServiceSettings, SettingsError, load, reference

S = TypeVar("S", bound=ServiceSettings)


def main(settings: type[S], create_app: Callable[[S], App]) -> NoReturn:
    """Be the service's command: run it, or with the argument `settings` print what can be set.

    Args:
        settings: the service's settings class.
        create_app: makes the App from the settings.
    """
    if sys.argv[1:] == ["settings"]:
        print(reference(settings.model_construct()))
        sys.exit(0)
    if sys.argv[1:]:
        sys.exit(f"unknown arguments {' '.join(sys.argv[1:])}: give none to run, or `settings` to list the settings")
    try:
        app = create_app(load(settings))
    except (SettingsError, StartError) as error:
        sys.exit(str(error))
    app.run()
