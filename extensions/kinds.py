"""What each kind of service has: the only place where a kind's name means something."""

from __future__ import annotations

from typing import Any

from copier_template_extensions import ContextHook
from jinja2 import Environment

# Templates test these booleans, never the name of the kind. A new kind is one row.
KINDS: dict[str, frozenset[str]] = {
    "fastapi": frozenset({"http", "storage", "orders", "tracing"}),
    "grpc": frozenset({"grpc", "storage", "orders", "tracing"}),
    "hybrid": frozenset({"http", "grpc", "storage", "orders", "tracing"}),
    "database": frozenset({"http", "database", "storage", "orders", "tracing"}),
    "caching": frozenset({"http", "redis", "storage", "catalogue", "tracing"}),
    "message-queue": frozenset({"http", "database", "broker", "storage", "orders", "tracing"}),
    "auth": frozenset({"http", "grpc", "database", "redis", "storage", "identity", "tracing"}),
    "minimal": frozenset({"worker"}),
}
DOORS = frozenset({"http", "grpc"})
BACKENDS = frozenset({"database", "redis", "broker"})
DOMAINS = frozenset({"orders", "catalogue", "identity", "worker"})
FEATURES = DOORS | BACKENDS | DOMAINS | {"storage", "tracing"}
# Features and the extra of marty-lib that each needs; every service has the operations port.
EXTRAS = {
    "http": "http",
    "grpc": "grpc",
    "database": "db",
    "redis": "redis",
    "identity": "auth",
    "tracing": "tracing",
}
BROKERS = ("kafka", "rabbitmq", "redis")


class Kinds(ContextHook):
    """Add `has_<feature>`, `has_mesh`, `is_<mesh>`, `is_<broker>` and `marty_lib_extras`."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["kinds"] = KINDS

    def hook(self, context: dict[str, Any]) -> None:
        has = KINDS.get(context.get("service_kind", ""), frozenset())
        context.update({f"has_{feature}": feature in has for feature in FEATURES})
        mesh = context.get("mesh", "none")
        broker = context.get("broker", "") if "broker" in has else ""
        context.update({f"is_{name}": name == broker for name in ("kafka", "rabbitmq")})
        context["is_redis_streams"] = broker == "redis"
        extras = ["ops", *(extra for feature, extra in EXTRAS.items() if feature in has)]
        context["marty_lib_extras"] = ",".join([*extras, f"events-{broker}"] if broker else extras)
        context.update(has_mesh=mesh != "none", is_istio=mesh == "istio", is_linkerd=mesh == "linkerd")
