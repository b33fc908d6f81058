"""The dashboards over all services: the platform, and what it is used for."""

from __future__ import annotations

from k8s.observability.dashboards import BUDGET_LEFT, OURS, VARIABLES, rate
from k8s.observability.grafana import Dashboard, Panel, Row

AVAILABLE = BUDGET_LEFT % 'slo="availability"'


def hourly(metric: str, by: str, *matchers: str) -> str:
    """Return by how much a counter grows in an hour, by a label."""
    return f"sum by ({by}) (increase({metric}{{{', '.join((OURS, *matchers))}}}[1h]))"


PLATFORM = Dashboard(
    "platform-overview",
    "Platform Overview",
    (
        Row(
            "Now",
            (
                Panel(
                    "Services up",
                    {"": "count(max by (namespace, job) (instance:service_up) == 1)"},
                    kind="stat",
                    width=4,
                ),
                Panel("Pods up", {"": "sum(instance:service_up)"}, kind="stat", width=4),
                Panel(
                    "Alerts",
                    {"": 'sort_desc(count by (severity, alertname, namespace, job) (ALERTS{alertstate="firing"}))'},
                    kind="table",
                    width=16,
                ),
            ),
        ),
        Row(
            "Services",
            (
                Panel("Rate", {"{{job}} {{protocol}}": "sum by (job, protocol) (job:requests:rate5m)"}, "reqps"),
                Panel(
                    "Errors",
                    {"{{job}} {{protocol}}": 'max by (job, protocol) (slo:errors:ratio_rate5m{slo="availability"})'},
                    "percentunit",
                ),
                Panel("P99", {"{{job}} {{protocol}}": "max by (job, protocol) (job:latency_seconds:p99_rate5m)"}, "s"),
                Panel(
                    "Budget left, 3 days",
                    {"{{job}} {{protocol}}": f"min by (job, protocol) ({AVAILABLE})"},
                    "percentunit",
                ),
                Panel("CPU", {"{{job}}": 'sum by (job) (rate(process_cpu_seconds_total{endpoint="ops"}[5m]))'}),
                Panel("Memory", {"{{job}}": 'sum by (job) (process_resident_memory_bytes{endpoint="ops"})'}, "bytes"),
            ),
        ),
        Row(
            "Cluster",
            (
                Panel(
                    "Pods that lack",
                    {
                        "{{namespace}}/{{deployment}}": "kube_deployment_spec_replicas"
                        " - kube_deployment_status_replicas_available > 0"
                    },
                ),
                Panel(
                    "Restarts, 1 h",
                    {"{{namespace}}/{{pod}}": "increase(kube_pod_container_status_restarts_total[1h]) > 0"},
                ),
                Panel(
                    "Volumes: free",
                    {
                        "{{namespace}}/{{persistentvolumeclaim}}": "kubelet_volume_stats_available_bytes"
                        " / kubelet_volume_stats_capacity_bytes"
                    },
                    "percentunit",
                ),
                Panel("Nodes ready", {"{{node}}": 'kube_node_status_condition{condition="Ready", status="true"}'}),
                Panel(
                    "Certificates: left",
                    {
                        "{{exported_namespace}}/{{name}}": "certmanager_certificate_expiration_timestamp_seconds"
                        " - time()"
                    },
                    "s",
                ),
                Panel(
                    "Spans",
                    {
                        "sent": "sum(rate(otelcol_exporter_sent_spans[5m]))",
                        "lost": "sum(rate(otelcol_exporter_send_failed_spans[5m]))",
                    },
                ),
                Panel("Series in Prometheus", {"": "prometheus_tsdb_head_series"}),
                Panel(
                    "Notifications",
                    {"{{integration}}": "sum by (integration) (rate(alertmanager_notifications_total[5m]))"},
                ),
            ),
        ),
    ),
)
BUSINESS = Dashboard(
    "business-metrics",
    "Business Metrics",
    (
        Row(
            "Orders and stock",
            (
                Panel("Orders placed", {"{{job}}": hourly("orders_placed_total", "job")}),
                Panel("Orders changed", {"{{status}}": hourly("orders_changed_total", "status")}),
                Panel("Pieces reserved", {"{{job}}": hourly("products_reserved_total", "job")}),
            ),
        ),
        Row(
            "Users",
            (
                Panel("Tokens given", {"{{grant}} {{outcome}}": rate("auth_tokens_given_total", "grant, outcome")}),
                Panel("Journal", {"{{event}}": hourly("audit_events_total", "event")}),
                Panel("Lockouts", {"{{job}}": hourly("auth_lockouts_total", "job")}),
            ),
        ),
        Row(
            "Work",
            (
                Panel(
                    "Events published",
                    {"{{topic}}": hourly("events_published_total", "topic")},
                ),
                Panel(
                    "Events handled",
                    {"{{type}}": hourly("events_handled_duration_seconds_count", "type", 'outcome="ok"')},
                ),
                Panel("Heartbeats", {"{{job}}": hourly("heartbeats_total", "job")}),
            ),
        ),
    ),
    VARIABLES,
)
