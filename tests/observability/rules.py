"""Our rules as data: alerts, expressions, and the expressions' parts."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from tests.conftest import ROOT
from tests.servers.requirement import missing

OBSERVABILITY = ROOT / "k8s" / "observability"
FILES = sorted((OBSERVABILITY / "prometheus" / "rules").glob("*.yaml"))

Rule = dict[str, Any]


def tool(name: str) -> str:
    """Return a program of Prometheus; skip the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not on the PATH: apt install prometheus prometheus-alertmanager")
    return found


def run(name: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of Prometheus to its end."""
    return subprocess.run([tool(name), *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@functools.cache
def groups() -> dict[str, list[dict[str, Any]]]:
    """Return the groups of each rule file."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["groups"] for path in FILES}


def rules(kind: str) -> list[tuple[str, Rule]]:
    """Return the rules of a kind, `alert` or `record`, each with the name of its file."""
    return [
        (name, rule) for name, found in groups().items() for group in found for rule in group["rules"] if kind in rule
    ]


ALERTS = {rule["alert"]: (family, rule) for family, rule in rules("alert")}


def nodes(node: Any) -> Iterator[Any]:
    """Yield an expression and all its parts."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None:
            yield from nodes(child)
    for argument in getattr(node, "args", None) or ():
        yield from nodes(argument)


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Return the series that an expression asks for.

    Raises:
        ValueError: where it cannot be parsed.
    """
    parsed = promql_parser.parse(expression)
    return [node for node in nodes(parsed) if isinstance(node, promql_parser.VectorSelector)]


def metrics(expression: str) -> set[str]:
    """Return the names of the metrics that an expression asks for."""
    return {selector.name for selector in selectors(expression) if selector.name}
