"""The runtime that every service rendered by Marty stands on.

Importing this package imports no extra: each name is loaded with its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marty_lib._app import App, Component
    from marty_lib._bearer import Bearer
    from marty_lib._main import main
    from marty_lib._principal import Principal, require
    from marty_lib._server import Server
    from marty_lib.auth import AuthSettings, Verifier
    from marty_lib.cache import Cache, CachePolicy, WriteBehind
    from marty_lib.context import RequestContext, current, outgoing_headers, remaining
    from marty_lib.db import Base, Database, DatabaseSettings
    from marty_lib.errors import (
        Conflict,
        DeadlineExceeded,
        FieldError,
        Forbidden,
        InvalidInput,
        NotFound,
        PayloadTooLarge,
        PreconditionFailed,
        PreconditionRequired,
        RateLimited,
        ServiceError,
        StartError,
        Unauthenticated,
        Unavailable,
    )
    from marty_lib.events import Consumer, Event, Events, EventsSettings, EventType
    from marty_lib.grpc import GrpcServer, GrpcSettings, checked, create_channel, serve_grpc
    from marty_lib.health import Health
    from marty_lib.http import create_api, serve
    from marty_lib.lock import Lock, LockBusy, LockLost
    from marty_lib.ratelimit import RateLimiter, Rule
    from marty_lib.ratelimit_http import limit_requests
    from marty_lib.redis import Redis, RedisSettings
    from marty_lib.resilience import Breaker, Bulkhead, deadline, retrying
    from marty_lib.session import Session, SessionStore
    from marty_lib.settings import (
        DrainSettings,
        Embedded,
        HttpSettings,
        LogSettings,
        OpsSettings,
        OtelSettings,
        Section,
        ServiceSettings,
        SettingsError,
    )
    from marty_lib.worker import Worker

_HOME = {
    "_app": ("App", "Component"),
    "_bearer": ("Bearer",),
    "_main": ("main",),
    "_principal": ("Principal", "require"),
    "_server": ("Server",),
    "auth": ("AuthSettings", "Verifier"),
    "cache": ("Cache", "CachePolicy", "WriteBehind"),
    "context": ("RequestContext", "current", "outgoing_headers", "remaining"),
    "db": ("Base", "Database", "DatabaseSettings"),
    "errors": (
        "Conflict",
        "DeadlineExceeded",
        "FieldError",
        "Forbidden",
        "InvalidInput",
        "NotFound",
        "PayloadTooLarge",
        "PreconditionFailed",
        "PreconditionRequired",
        "RateLimited",
        "ServiceError",
        "StartError",
        "Unauthenticated",
        "Unavailable",
    ),
    "events": ("Consumer", "Event", "EventType", "Events", "EventsSettings"),
    "grpc": ("GrpcServer", "GrpcSettings", "checked", "create_channel", "serve_grpc"),
    "health": ("Health",),
    "http": ("create_api", "serve"),
    "lock": ("Lock", "LockBusy", "LockLost"),
    "ratelimit": ("RateLimiter", "Rule"),
    "ratelimit_http": ("limit_requests",),
    "redis": ("Redis", "RedisSettings"),
    "session": ("Session", "SessionStore"),
    "resilience": ("Breaker", "Bulkhead", "deadline", "retrying"),
    "settings": (
        "DrainSettings",
        "Embedded",
        "HttpSettings",
        "LogSettings",
        "OpsSettings",
        "OtelSettings",
        "Section",
        "ServiceSettings",
        "SettingsError",
    ),
    "worker": ("Worker",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "App",
    "AuthSettings",
    "Base",
    "Bearer",
    "Breaker",
    "Bulkhead",
    "Cache",
    "CachePolicy",
    "Component",
    "Conflict",
    "Consumer",
    "Database",
    "DatabaseSettings",
    "DeadlineExceeded",
    "DrainSettings",
    "Embedded",
    "Event",
    "EventType",
    "Events",
    "EventsSettings",
    "FieldError",
    "Forbidden",
    "GrpcServer",
    "GrpcSettings",
    "Health",
    "HttpSettings",
    "InvalidInput",
    "Lock",
    "LockBusy",
    "LockLost",
    "LogSettings",
    "NotFound",
    "OpsSettings",
    "OtelSettings",
    "PayloadTooLarge",
    "PreconditionFailed",
    "PreconditionRequired",
    "Principal",
    "RateLimited",
    "RateLimiter",
    "Redis",
    "RedisSettings",
    "RequestContext",
    "Rule",
    "Section",
    "Server",
    "ServiceError",
    "ServiceSettings",
    "Session",
    "SessionStore",
    "SettingsError",
    "StartError",
    "Unauthenticated",
    "Unavailable",
    "Verifier",
    "Worker",
    "WriteBehind",
    "checked",
    "create_api",
    "create_channel",
    "current",
    "deadline",
    "limit_requests",
    "main",
    "outgoing_headers",
    "remaining",
    "require",
    "retrying",
    "serve",
    "serve_grpc",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"marty_lib.{module}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)
