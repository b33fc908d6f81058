"""What each kind of service has: the only place where a kind's name means something."""

from __future__ import annotations

from typing import Any

from copier_template_extensions import ContextHook
from jinja2 import Environment

# Templates test these booleans, never the name of the kind. A new kind is one row.
KINDS: dict[str, frozenset[str]] = {
    "fastapi": frozenset({"http", "tracing"}),
    "minimal": frozenset({"worker"}),
}
# The features for which marty-lib has an extra of the same name; every service has the operations port.
EXTRAS = ("http", "tracing")
FEATURES = frozenset().union(*KINDS.values())


class Kinds(ContextHook):
    """Add `has_<feature>` for every feature, `is_<mesh>` for every mesh, `has_mesh` and `marty_lib_extras`."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["kinds"] = KINDS

    def hook(self, context: dict[str, Any]) -> None:
        has = KINDS.get(context.get("service_kind", ""), frozenset())
        context.update({f"has_{feature}": feature in has for feature in FEATURES})
        context["marty_lib_extras"] = ",".join(["ops", *(extra for extra in EXTRAS if extra in has)])
        mesh = context.get("mesh", "none")
        context.update(has_mesh=mesh != "none", is_istio=mesh == "istio", is_linkerd=mesh == "linkerd")
