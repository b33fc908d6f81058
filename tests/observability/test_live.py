"""A real Prometheus and Alertmanager watch a rendered service of each kind.

One Prometheus for all kinds, one round of traffic, and then every rule and every panel that speaks of our metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from marty_lib.testing import ServiceProcess

from tests.conftest import KINDS, Render
from tests.observability.boards import expressions
from tests.observability.rendered import Rendered, until
from tests.observability.rules import ALERTS, metrics, rules
from tests.observability.stack import Stack, running
from tests.observability.test_dashboards import external
from tests.observability.traffic import TRAFFIC, ask
from tests.servers.server import free_server_ports

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("observability")]

# What these ask for happens only after a theft, a wrong password, or in a mesh: that it is counted is what the auth
# service's own tests show; its metric with this label is seen here, by `ClientsRefused`.
NOT_PROVOKED = {"TokenReused", "LoginsFail", "IstiodDown"}


Live = tuple[Stack, dict[str, Rendered]]


@pytest.fixture(scope="module")
def live(installed: Render) -> Iterator[Live]:
    """A stack that watches a service of each kind, each of which has been asked what it is for."""
    with ExitStack() as stack:
        ports = free_server_ports(3 * len(KINDS))
        services: dict[str, Rendered] = {}
        for number, kind in enumerate(KINDS):
            services[kind] = Rendered(
                installed(service_kind=kind), ports[3 * number : 3 * number + 3], WORKER_INTERVAL="0.5"
            )
            stack.callback(services[kind].close)
        faulty = ServiceProcess("tests.observability.faulty")
        stack.callback(faulty.close)
        for service in (*services.values(), faulty):
            service.wait_ready(60)
        watched = {kind: service.ops_port for kind, service in services.items()} | {"faulty": faulty.ops_port}
        yield stack.enter_context(running(watched)), services


def shown(expression: str) -> str:
    """Return an alert's condition as one that is a series whether or not it holds."""
    expression = expression.partition("\nunless\n")[0]
    return re.sub(r"(?<=\s)(==|!=|>=|<=|>|<)(?=\s)", r"\1 bool", expression)


def asked() -> dict[str, str]:
    """Return all that speaks of metrics that need no cluster and no mesh."""
    found = {name: shown(rule["expr"]) for name, (_, rule) in ALERTS.items() if name not in NOT_PROVOKED}
    found |= {f"{rule['record']} {rule.get('labels', {})}": rule["expr"] for _, rule in rules("record")}
    found |= expressions()
    return {name: expression for name, expression in found.items() if not metrics(expression) & external()}


def test_prometheus_finds_each_service_once_under_its_name(live: Live) -> None:
    stack, services = live
    wanted = {(kind, "ops", "shop") for kind in (*services, "faulty")}
    wanted |= {("alertmanager", "metrics", "shop"), ("prometheus", "metrics", "")}

    def found() -> set[tuple[str, ...]]:
        up = [each["metric"] for each in stack.series("up == 1")]
        return {(metric["job"], metric["endpoint"], metric.get("namespace", "")) for metric in up}

    until(lambda: found() == wanted, lambda: found() ^ wanted)
    assert len(stack.series("up")) == len(wanted)


def test_every_rule_and_every_panel_that_speaks_of_our_metrics_returns_a_series(live: Live) -> None:
    stack, services = live
    wanted = asked()
    assert len(wanted) > 150

    def absent() -> list[str]:
        for kind, service in services.items():
            ask(f"{service.ops}/health/ready")
            TRAFFIC[kind](service)
        return [name for name in missing if not stack.series(wanted[name])]

    missing = list(wanted)

    def complete() -> bool:
        missing[:] = absent()
        return not missing

    until(complete, lambda: missing)
    assert not [rule for group in stack.ask("rules")["groups"] for rule in group["rules"] if rule["health"] == "err"]


def test_a_service_that_stops_is_told_of_with_its_runbook_and_told_of_again_when_it_is_back(live: Live) -> None:
    stack, services = live
    service, heard = services["fastapi"], stack.receiver.heard
    service.terminate()
    service.process.wait(30)
    until(lambda: heard("ServiceDown", "fastapi", "firing"), lambda: stack.receiver.told)
    (receiver, alert), *_ = heard("ServiceDown", "fastapi", "firing")
    assert receiver == "critical"
    assert alert["labels"]["namespace"] == "shop"
    assert alert["annotations"]["summary"] == "shop/fastapi is down"
    assert alert["annotations"]["runbook_url"].endswith("/docs/runbooks/services.md#servicedown")

    service.begin()
    service.wait_ready(60)
    until(lambda: heard("ServiceDown", "fastapi", "resolved"), lambda: stack.receiver.told)
    assert not heard("ServiceDown", "database", "firing")


def test_alerts_go_to_the_receiver_of_their_severity(live: Live) -> None:
    stack, _ = live
    told = stack.receiver.told
    until(lambda: {"critical", "warning", "watchdog"} <= {to for to, _ in told}, lambda: told)
    wanted = {"critical": "critical", "warning": "warning", "none": "watchdog"}
    assert {(to, wanted[alert["labels"]["severity"]]) for to, alert in told} == {
        (name, name) for name in wanted.values()
    }
    assert {alert["labels"]["alertname"] for to, alert in told if to == "watchdog"} == {"Watchdog"}
