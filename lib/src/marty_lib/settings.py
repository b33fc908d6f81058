"""Settings of a service: sections of one pydantic-settings class, read from the environment and from secret files.

A setting of a section is named after both: `http.port` is read from `HTTP_PORT`. The environment wins over files in
the folder `SECRETS_DIR` (default `/run/secrets`), whose names are the same. `load` reports everything that is wrong
at once, by the name to set, and never shows a value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from marty_lib._sections import DrainSettings as DrainSettings
from marty_lib._sections import Embedded as Embedded
from marty_lib._sections import HttpSettings as HttpSettings
from marty_lib._sections import LogSettings as LogSettings
from marty_lib._sections import OpsSettings as OpsSettings
from marty_lib._sections import OtelSettings as OtelSettings
from marty_lib._sections import SecretUrl as SecretUrl
from marty_lib._sections import Section as Section


class Wrong(NamedTuple):
    """One wrong setting: the name to set, and what is wrong with it."""

    name: str
    message: str


class SettingsError(Exception):
    """Some settings are wrong; the text lists each by its environment name and shows no value."""

    def __init__(self, wrong: list[Wrong]) -> None:
        self.wrong = wrong
        lines = "".join(f"\n  {name}: {message}" for name, message in wrong)
        super().__init__(f"{len(wrong)} wrong setting{'s' if len(wrong) > 1 else ''}:{lines}")


class ServiceSettings(BaseSettings):
    """What every service has; a service's own `Settings` derives from it and adds sections."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        nested_model_default_partial_update=True,
    )

    environment: Literal["development", "staging", "production"] = "development"
    """Where the service runs; production refuses debug, embedded backends and default secrets."""
    debug: bool = False
    """Show internals in answers to errors; for development only."""
    allow_embedded: bool = False
    """Accept backends that keep data inside the process in production too: for a trial."""
    ops: OpsSettings = OpsSettings()
    log: LogSettings = LogSettings()
    drain: DrainSettings = DrainSettings()
    otel: OtelSettings = OtelSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then the secret files."""
        return init_settings, _Source(settings_cls, os.environ), _Source(settings_cls, secret_files())


S = TypeVar("S", bound=ServiceSettings)
_left_out: ContextVar[frozenset[str]] = ContextVar("marty_settings_left_out", default=frozenset())


class _Source(EnvSettingsSource):
    """An environment-like mapping as a source of settings."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str]) -> None:
        # A section is set by its fields only: a stray LOG or HTTP would be parsed as JSON.
        sections = {name for name, field in settings_cls.model_fields.items() if isinstance(field.default, Section)}
        self._variables = {
            name.lower(): value
            for name, value in variables.items()
            if name.upper() not in _left_out.get() and name.lower() not in sections
        }
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave what is not JSON to validation, which reports it among the other wrong settings."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def secret_files() -> dict[str, str]:
    """Return name and content of each file in the folder `SECRETS_DIR`, white space at the end removed."""
    folder = Path(os.environ.get("SECRETS_DIR") or "/run/secrets")
    if not folder.is_dir():
        return {}
    files = (entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    # As `os.environ` does: what is not text belongs to somebody else.
    return {file.name: file.read_text(encoding="utf-8", errors="surrogateescape").rstrip() for file in files}


def load(settings: type[S]) -> S:
    """Read and check the settings.

    Raises:
        SettingsError: with every wrong setting, those that only production refuses among them.
    """
    wrong: list[Wrong] = []
    loaded: S | None
    try:
        loaded = settings()
    except ValidationError as error:
        wrong = [Wrong(_env_name(part["loc"]), part["msg"]) for part in error.errors(include_input=False)]
        loaded = _load_without(settings, frozenset(name for name, _ in wrong))
    if loaded is not None and loaded.environment == "production":
        wrong += unfit_for_production(loaded)
    if wrong or loaded is None:
        raise SettingsError(wrong)
    return loaded


def _load_without(settings: type[S], names: frozenset[str]) -> S | None:
    """Load as if the named variables were not set, to find what else is wrong."""
    token = _left_out.set(names)
    try:
        return settings()
    except ValidationError:
        return None
    finally:
        _left_out.reset(token)


def unfit_for_production(settings: ServiceSettings) -> Iterator[Wrong]:
    """Yield what may be set in development and not in production."""
    if settings.debug:
        yield Wrong("DEBUG", "must be false in production")
    defaults = {name: default for name, _, default in fields(type(settings).model_construct())}
    for name, field, value in fields(settings):
        marks = [mark for mark in field.metadata if isinstance(mark, Embedded)]
        for mark in marks:
            if value == mark.value and not settings.allow_embedded:
                yield Wrong(name, f"is embedded, which production refuses. {mark.instead}, or set ALLOW_EMBEDDED=true")
        if not marks and isinstance(value, SecretStr) and value.get_secret_value() and value == defaults.get(name):
            yield Wrong(name, "is the default secret, which everybody knows: set one of your own")


def fields(model: BaseModel, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yield environment name, declaration and value of every setting, sections taken apart."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name, "")
        if isinstance(value, BaseModel):
            yield from fields(value, (*prefix, name))
        else:
            yield _env_name((*prefix, name)), field, value


def dump(settings: ServiceSettings) -> dict[str, Any]:
    """Return all settings by environment name, secrets masked: safe to log."""
    return {name: str(value) if isinstance(value, SecretStr) else value for name, _, value in fields(settings)}


def reference(settings: ServiceSettings) -> str:
    """Return a Markdown table of all settings: name, default, meaning."""
    rows = [
        f"| `{name}` | {f'`{value}`' if str(value) else ''} | {field.description or ''} |"
        for name, field, value in fields(settings)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _env_name(location: tuple[int | str, ...]) -> str:
    return "_".join(str(part) for part in location).upper()
