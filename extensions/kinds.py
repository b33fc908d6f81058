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
# The calls of each domain, as a mesh must tell them apart: those that may be sent again, and those that stream.
CALLS: dict[str, dict[str, Any]] = {
    "orders": {
        "rpc_service": "OrderService",
        "safe_calls": ["GetOrder"],
        "streamed_calls": ["ListOrders", "PlaceOrders", "ChangeOrders"],
    },
    "identity": {
        "rpc_service": "IdentityService",
        "safe_calls": ["Introspect", "GetUser", "CheckPermission"],
        "streamed_calls": ["ListSessions"],
    },
}
BROKERS = ("kafka", "rabbitmq", "redis")


class Kinds(ContextHook):
    """Add `has_<feature>`, `has_mesh`, `is_<mesh>`, `is_<broker>`, `marty_lib_extras`, and the names of calls."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["kinds"] = KINDS

    def hook(self, context: dict[str, Any]) -> None:
        has = KINDS.get(context.get("service_kind", ""), frozenset())
        context.update({f"has_{feature}": feature in has for feature in FEATURES})
        for domain in has & CALLS.keys():
            context.update(CALLS[domain])
        mesh = context.get("mesh", "none")
        broker = context.get("broker", "") if "broker" in has else ""
        context.update({f"is_{name}": name == broker for name in ("kafka", "rabbitmq")})
        context["is_redis_streams"] = broker == "redis"
        extras = ["ops", *(extra for feature, extra in EXTRAS.items() if feature in has)]
        context["marty_lib_extras"] = ",".join([*extras, f"events-{broker}"] if broker else extras)
        context.update(has_mesh=mesh != "none", is_istio=mesh == "istio", is_linkerd=mesh == "linkerd")
