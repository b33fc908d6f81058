"""Dashboards and rules ask only for what is exported, and dashboards are of one style."""

from __future__ import annotations

import functools
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.observability.boards import Board, boards, expressions, panels
from tests.observability.rules import metrics, rules, selectors

HERE = ROOT / "tests" / "observability"
DEFINED = re.compile(r'\b(Counter|Durations|Gauge|Histogram|Info)\(\s*"(\w+)"')
SERIES = ("_bucket", "_count", "_sum")
SUFFIXES = {"Counter": ("_total",), "Durations": SERIES, "Gauge": ("",), "Histogram": SERIES, "Info": ("_info",)}
EXTERNAL: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "external.yaml").read_text(encoding="utf-8"))
# Of every process that prometheus-client runs in, and of Prometheus and Alertmanager: the live test sees them.
SEEN = {
    "ALERTS",
    "alertmanager_notifications_failed_total",
    "alertmanager_notifications_total",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "prometheus_config_last_reload_successful",
    "prometheus_notifications_errors_total",
    "prometheus_rule_evaluation_failures_total",
    "prometheus_tsdb_head_series",
    "up",
}


@functools.cache
def ours() -> set[str]:
    """Return the metrics that library and template define."""
    found = [path for folder in ("lib/src", "template/src") for path in (ROOT / folder).rglob("*.py*")]
    texts = [path.read_text(encoding="utf-8") for path in found if path.is_file() and path.suffix != ".pyc"]
    defined = {match for text in texts for match in DEFINED.findall(text)}
    return {name.removesuffix("_total") + suffix for kind, name in defined for suffix in SUFFIXES[kind]}


def external() -> set[str]:
    """Return the metrics of others."""
    return {name for source in EXTERNAL.values() for name in source["metrics"]}


ASKED = expressions() | {
    rule.get("alert") or f"{rule['record']} {rule.get('labels', {})}": rule["expr"]
    for kind in ("alert", "record")
    for _, rule in rules(kind)
}


@pytest.mark.parametrize("where", ASKED)
def test_an_expression_asks_only_for_metrics_that_are_exported(where: str) -> None:
    recorded = {rule["record"] for _, rule in rules("record")}
    assert metrics(ASKED[where]) <= ours() | SEEN | recorded | external()


def test_the_list_of_others_metrics_has_none_that_nobody_asks_for() -> None:
    assert external() | SEEN == {name for text in ASKED.values() for name in metrics(text)} & (external() | SEEN)
    assert all(source["documentation"].startswith("https://") for source in EXTERNAL.values())


def test_a_metric_that_nobody_exports_is_found() -> None:
    assert metrics('sum(rate(nothing_total{a="b"}[5m])) / on (x) known') == {"nothing_total", "known"}
    assert "nothing_total" not in ours() | SEEN | external()


def test_an_expression_that_cannot_be_parsed_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        selectors("sum(rate(x[5m])")


@pytest.mark.parametrize("board", boards().values(), ids=boards())
class TestADashboard:
    def test_is_found_by_the_name_of_its_file(self, board: Board) -> None:
        assert boards()[board["uid"]] is board
        assert board["tags"] == ["marty"]

    def test_has_panels_that_have_a_title_and_ask_the_provisioned_source(self, board: Board) -> None:
        for panel in panels(board):
            assert panel["title"]
            assert panel["targets"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}

    def test_gives_each_panel_a_number_and_a_place_of_its_own(self, board: Board) -> None:
        shown = list(panels(board))
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for one, other in combinations([panel["gridPos"] for panel in shown], 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or above
        assert all(place["x"] + place["w"] <= 24 for place in (panel["gridPos"] for panel in shown))

    def test_uses_only_variables_that_it_has(self, board: Board) -> None:
        asked = [target["expr"] for panel in panels(board) for target in panel["targets"]]
        asked += [mark["expr"] for mark in board["annotations"]["list"]]
        used = set(re.findall(r"\$(\w+)", " ".join(asked))) - {"__rate_interval"}
        assert used == {variable["name"] for variable in board["templating"]["list"]}

    def test_names_in_legends_only_labels_that_the_series_keep(self, board: Board) -> None:
        for panel in panels(board):
            for target in panel["targets"]:
                kept = re.findall(r"\b(?:sum|min|max|count) by \(([^)]*)\)", target["expr"])
                legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert not kept or legend <= {label.strip() for label in kept[0].split(",")} | {"le"}, panel["title"]


def test_the_dashboards_that_users_know_are_there() -> None:
    assert [board["title"] for board in boards().values()] == [
        "Business Metrics",
        "Istio",
        "Kafka Monitoring",
        "Linkerd",
        "Microservice Detail",
        "Platform Overview",
    ]


def test_deploys_are_marked() -> None:
    (mark,) = boards()["microservice-detail"]["annotations"]["list"]
    assert metrics(mark["expr"].replace("$", "")) == {"service_info"}
