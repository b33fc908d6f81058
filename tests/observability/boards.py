"""Our dashboards as data: their panels, and expressions as Prometheus is asked."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.observability.rules import OBSERVABILITY

FILES = sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))
Board = dict[str, Any]


@functools.cache
def boards() -> dict[str, Board]:
    """Return the dashboards by their file's name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}


def panels(board: Board) -> Iterator[dict[str, Any]]:
    """Yield what shows something, rows aside."""
    for panel in board["panels"]:
        for each in (panel, *panel.get("panels", ())):
            if each["type"] != "row":
                yield each


def typed(expression: str) -> str:
    """Return an expression as Grafana sends it where all is chosen."""
    expression = expression.replace("$__rate_interval", "1m")
    return re.sub(r"\$\w+", ".+", expression)


def expressions() -> dict[str, str]:
    """Return what all dashboards ask, by dashboard and panel."""
    found: dict[str, str] = {}
    for name, board in boards().items():
        for panel in panels(board):
            for target in panel["targets"]:
                found[f"{name}/{panel['title']}/{panel['id']}{target['refId']}"] = typed(target["expr"])
        for mark in board["annotations"]["list"]:
            found[f"{name}/{mark['name']}"] = typed(mark["expr"])
    return found
