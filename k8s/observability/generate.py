"""Writes what follows from the sources: the SLO rules, the operator's PrometheusRules and the dashboards.

    python -m k8s.observability.generate

A test fails where what is committed is not what this writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from k8s.observability import dashboards, dashboards_infrastructure, dashboards_overview, grafana, slo

FOLDER = Path(__file__).parent
RULES = FOLDER / "prometheus" / "rules"
DASHBOARDS = (
    dashboards.SERVICE,
    dashboards_overview.PLATFORM,
    dashboards_overview.BUSINESS,
    dashboards_infrastructure.KAFKA,
    dashboards_infrastructure.ISTIO,
    dashboards_infrastructure.LINKERD,
)
NOTE = "# Written by `python -m k8s.observability.generate`; change {source} instead.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and lists indented, as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump(*documents: object) -> str:
    """Return documents as YAML, their keys in their order."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=float("inf"), allow_unicode=True)


def rule_files() -> dict[str, dict[str, Any]]:
    """Return the rule files by name without their ending, those of the SLOs as they are to be."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RULES.glob("*.yaml"))}
    return {**found, "slo": slo.rules()}


def prometheus_rule(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a rule file as an object of the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": f"marty-{name}", "namespace": "monitoring"},
        "spec": spec,
    }


def outputs() -> dict[Path, str]:
    """Return the text of each file that is written."""
    objects = [prometheus_rule(name, spec) for name, spec in sorted(rule_files().items())]
    boards = {
        FOLDER / "grafana" / "dashboards" / f"{board.uid}.json": json.dumps(grafana.render(board), indent=1) + "\n"
        for board in DASHBOARDS
    }
    return {
        RULES / "slo.yaml": NOTE.format(source="slo.py") + dump(slo.rules()),
        FOLDER / "operator" / "rules.yaml": NOTE.format(source="prometheus/rules/") + dump(*objects),
        **boards,
    }


def main() -> None:
    """Write them."""
    for path, text in outputs().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
