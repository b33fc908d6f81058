"""The service level objectives, and their rules: multi-window, multi-burn-rate alerts as in Google's SRE workbook.

https://sre.google/workbook/alerting-on-slos/ has the factors: 14.4 and 6 times the pace that would just use up the
budget of 30 days call somebody, 3 and 1 times write a ticket. The short window of each pair lets the alert end soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
FAST = (("1h", "5m", 14.4), ("6h", "30m", 6))
SLOW = (("1d", "2h", 3), ("3d", "6h", 1))
# A night in which one of three requests fails is no incident: about a hundred an hour are.
ENOUGH = 0.03
RUNBOOK = "https://github.com/org/marty/blob/main/docs/runbooks/slo.md#"


@dataclass(frozen=True)
class Protocol:
    """What a door of the service counts.

    Args:
        metric: the histogram of what was answered.
        failed: selects what failed through the service's own fault.
        operation: the label that tells operations apart.
        timed: selects what a latency can be asked of.
    """

    metric: str
    failed: str
    operation: str
    timed: str = ""


# A stream that somebody watches lasts as long as it is watched; so does the health check's.
PROTOCOLS = {
    "http": Protocol("http_server_request_duration_seconds", 'status=~"5.."', "route"),
    "grpc": Protocol(
        "grpc_server_call_duration_seconds",
        'code=~"UNKNOWN|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS"',
        "method",
        'method!~"grpc[.].*|.*/(Watch|Subscribe|Stream).*"',
    ),
}
BUDGETS = {"availability": 0.001, "errors": 0.01, "latency-p95": 0.05, "latency-p99": 0.01}
LIMITS = {"latency-p95": "0.5", "latency-p99": "1.0"}


def braces(*matchers: str) -> str:
    """Return a selector of those matchers that are not empty."""
    kept = [matcher for matcher in matchers if matcher]
    return "{" + ", ".join(kept) + "}" if kept else ""


def failed_share(protocol: Protocol, window: str, labels: str) -> str:
    """Return the share of failures; 0, not nothing, where none has ever failed."""
    every = f"sum by ({labels}) (rate({protocol.metric}_count[{window}]))"
    failed = f"sum by ({labels}) (rate({protocol.metric}_count{braces(protocol.failed)}[{window}]))"
    return f"({failed} or 0 * {every})\n/ {every}\n"


def late_share(protocol: Protocol, window: str, limit: str) -> str:
    """Return the share of what took longer than the limit, which is a bucket of the histogram."""
    every = f"sum by (namespace, job) (rate({protocol.metric}_count{braces(protocol.timed)}[{window}]))"
    bucket = braces(protocol.timed, f'le="{limit}"')
    in_time = f"sum by (namespace, job) (rate({protocol.metric}_bucket{bucket}[{window}]))"
    return f"1 - {in_time}\n/ {every}\n"


def share(slo: str, protocol: Protocol, window: str) -> str:
    """Return the share of what an objective calls bad."""
    if slo in LIMITS:
        return late_share(protocol, window, LIMITS[slo])
    labels = "namespace, job" if slo == "availability" else f"namespace, job, {protocol.operation}"
    return failed_share(protocol, window, labels)


def quantile(protocol: Protocol, share: float) -> str:
    """Return a latency in seconds."""
    buckets = f"sum by (namespace, job, le) (rate({protocol.metric}_bucket{braces(protocol.timed)}[5m]))"
    return f"histogram_quantile({share}, {buckets})"


def recorded() -> Iterator[dict[str, Any]]:
    """Yield the rules that record: budgets, shares by window, rates and latencies."""
    for slo, budget in BUDGETS.items():
        yield {"record": "slo:budget:ratio", "expr": f"vector({budget})", "labels": {"slo": slo}}
    for name, protocol in PROTOCOLS.items():
        labels = {"protocol": name}
        for window in ("5m", "1h"):
            rate = f"sum by (namespace, job) (rate({protocol.metric}_count[{window}]))"
            yield {"record": f"job:requests:rate{window}", "expr": rate, "labels": labels}
        for percent in (50, 95, 99):
            latency = quantile(protocol, percent / 100)
            yield {"record": f"job:latency_seconds:p{percent}_rate5m", "expr": latency, "labels": labels}


def shares(window: str) -> Iterator[dict[str, Any]]:
    """Yield the shares of one window."""
    for slo in BUDGETS:
        for name, protocol in PROTOCOLS.items():
            labels = {"slo": slo, "protocol": name}
            expr = share(slo, protocol, window)
            yield {"record": f"slo:errors:ratio_rate{window}", "expr": expr, "labels": labels}


def burns(pairs: tuple[tuple[str, str, float], ...]) -> str:
    """Return the condition that a budget is used up too fast in both windows of a pair."""
    limit = "> on (slo) group_left () {factor} * slo:budget:ratio"
    sides = [
        f"(slo:errors:ratio_rate{long} {limit} and slo:errors:ratio_rate{short} {limit})".format(factor=factor)
        for long, short, factor in pairs
    ]
    return (
        "(\n  "
        + "\n  or\n  ".join(sides)
        + "\n)\n"
        + f"and on (namespace, job, protocol) job:requests:rate1h > {ENOUGH}\n"
    )


def alert(name: str, pairs: tuple[tuple[str, str, float], ...], wait: str, severity: str, lasts: str) -> dict[str, Any]:
    """Return the alert for a pace."""
    operation = "{{ with $labels.route }}, {{ . }}{{ end }}{{ with $labels.method }}, {{ . }}{{ end }}"
    return {
        "alert": name,
        "expr": burns(pairs),
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {
            "summary": "{{ $labels.namespace }}/{{ $labels.job }} uses up its budget for {{ $labels.slo }}",
            "description": (
                "{{ $value | humanizePercentage }} over {{ $labels.protocol }}"
                f"{operation} is bad: at this pace the budget of 30 days lasts {lasts}."
            ),
            "runbook_url": RUNBOOK + name.lower(),
        },
    }


def rules() -> dict[str, Any]:
    """Return the rule file."""
    alerts = [
        alert("BudgetBurnsFast", FAST, "2m", "critical", "less than five days"),
        alert("BudgetBurnsSlowly", SLOW, "15m", "warning", "less than 30 days"),
    ]
    # Long windows change slowly and cost most.
    intervals = {window: "1m" if window in ("5m", "30m", "1h") else "5m" for window in WINDOWS}
    windows = [{"name": f"slo-{w}", "interval": intervals[w], "rules": list(shares(w))} for w in WINDOWS]
    return {"groups": [{"name": "slo", "rules": list(recorded())}, *windows, {"name": "slo-alerts", "rules": alerts}]}
