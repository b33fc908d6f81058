"""Grafana's dashboards as data, in one style: rows of panels on a grid of 24 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

COLUMNS, HEIGHT = 24, 7
SOURCE = {"type": "prometheus", "uid": "prometheus"}


@dataclass(frozen=True)
class Panel:
    """What a panel shows.

    Args:
        title: what it answers.
        queries: expressions, each by its legend; `{{label}}` in a legend is the label's value.
        unit: Grafana's name of the unit.
        kind: `timeseries`, `stat` or `table`.
        width: of 24 columns.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8


@dataclass(frozen=True)
class Row:
    """Panels under a heading; a folded row is opened by who needs it."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A dashboard.

    Args:
        uid: by which links find it; also its file's name.
        title: as shown.
        rows: from top to bottom.
        variables: what can be chosen, each with the query of its values.
        marks: an expression whose series mark a time, each by its legend.
    """

    uid: str
    title: str
    rows: tuple[Row, ...]
    variables: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)


def render(dashboard: Dashboard) -> dict[str, Any]:
    """Return what Grafana reads."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["marty"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_variable(name, query) for name, query in dashboard.variables.items()]},
        "annotations": {"list": [_mark(legend, expr) for legend, expr in dashboard.marks.items()]},
        "links": [{"type": "dashboards", "tags": ["marty"], "title": "Marty", "asDropdown": True, "keepTime": True}],
        "panels": list(_numbered(_rows(dashboard.rows))),
    }


def _numbered(panels: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    number = 0
    for panel in panels:
        number += 1
        inner = []
        for child in panel.get("panels", ()):
            number += 1
            inner.append({"id": number, **child})
        yield {"id": number - len(inner), **panel, **({"panels": inner} if "panels" in panel else {})}


def _rows(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    top = 0
    for row in rows:
        heading = {"type": "row", "title": row.title, "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}}
        panels, bottom = _grid(row.panels, top + 1)
        yield {**heading, "collapsed": row.folded, "panels": panels if row.folded else []}
        if not row.folded:
            yield from panels
        top = top + 1 if row.folded else bottom


def _grid(panels: Iterable[Panel], top: int) -> tuple[list[dict[str, Any]], int]:
    placed: list[dict[str, Any]] = []
    left = 0
    for panel in panels:
        if left + panel.width > COLUMNS:
            left, top = 0, top + HEIGHT
        placed.append(_panel(panel, {"x": left, "y": top, "w": panel.width, "h": HEIGHT}))
        left += panel.width
    return placed, top + HEIGHT


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    # From 0 on, unless something is below it: a budget can be overdrawn.
    defaults = {"unit": panel.unit, "color": {"mode": "palette-classic"}, "custom": {"axisSoftMin": 0}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
        "targets": [
            _target(chr(ord("A") + number), legend, expr, panel.kind)
            for number, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def _target(letter: str, legend: str, expr: str, kind: str) -> dict[str, Any]:
    now = kind != "timeseries"
    shape = {"instant": now, "range": not now, "format": "table" if kind == "table" else "time_series"}
    return {"refId": letter, "datasource": SOURCE, "expr": expr, "legendFormat": legend, **shape}


def _options(kind: str) -> dict[str, Any]:
    if kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {"reduceOptions": {"calcs": ["lastNotNull"]}} if kind == "stat" else {"showHeader": True}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _mark(legend: str, expr: str) -> dict[str, Any]:
    return {
        "name": legend,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": expr,
        "step": "60s",
        "titleFormat": legend,
    }
