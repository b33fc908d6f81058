"""The dashboards of what Marty's services export themselves. `job` is the service's name."""

from __future__ import annotations

from k8s.observability.grafana import Dashboard, Panel, Row
from k8s.observability.slo import PROTOCOLS

OURS = 'namespace=~"$namespace", job=~"$job"'
RATE = "[$__rate_interval]"
VARIABLES = {
    "namespace": 'label_values(up{endpoint="ops"}, namespace)',
    "job": 'label_values(up{endpoint="ops", namespace=~"$namespace"}, job)',
}
BUDGET_LEFT = "1 - slo:errors:ratio_rate3d{%s} / on (slo) group_left () slo:budget:ratio"
VERSIONS = "count by (namespace, job, version) (service_info{%s})"


def rate(metric: str, by: str, *matchers: str) -> str:
    """Return a counter's rate by some labels."""
    return f"sum by ({by}) (rate({metric}{{{', '.join((OURS, *matchers))}}}{RATE}))"


def quantile(share: float, metric: str, by: str = "") -> str:
    """Return a histogram's quantile, by labels where there are some."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels)})"


def share(metric: str, by: str, matcher: str) -> str:
    """Return the share of those that a matcher picks."""
    return f"{rate(metric, by, matcher)} / {rate(metric, by)}"


def red(protocol: str, title: str, active: str) -> Row:
    """Return rate, errors and duration of one door."""
    door = PROTOCOLS[protocol]
    count, label = f"{door.metric}_count", door.operation
    status = "status" if protocol == "http" else "code"
    return Row(
        title,
        (
            Panel(f"Rate by {label}", {f"{{{{{label}}}}}": rate(count, label)}, "reqps"),
            Panel(
                f"Errors by {label}",
                {
                    f"{{{{{label}}}}}": f"max by ({label}) "
                    f'(slo:errors:ratio_rate5m{{slo="errors", protocol="{protocol}", {OURS}}})'
                },
                "percentunit",
            ),
            Panel(
                "Latency",
                {f"P{p}": f'job:latency_seconds:p{p}_rate5m{{{OURS}, protocol="{protocol}"}}' for p in (50, 95, 99)},
                "s",
            ),
            Panel(f"P95 by {label}", {f"{{{{{label}}}}}": quantile(0.95, door.metric, label)}, "s"),
            Panel(f"Answers by {status}", {f"{{{{{status}}}}}": rate(count, status)}, "reqps"),
            Panel("At once", {"{{pod}}": f"{active}{{{OURS}}}"}),
        ),
    )


OBJECTIVES = Row(
    "Objectives",
    (
        Panel("Pods", {"{{job}}": f"sum by (job) (instance:service_up{{{OURS}}})"}, kind="stat", width=4),
        Panel(
            "Availability, 1 h",
            {"{{protocol}}": f'1 - slo:errors:ratio_rate1h{{slo="availability", {OURS}}}'},
            "percentunit",
            "stat",
            6,
        ),
        Panel("Budget left, 3 days", {"{{slo}} {{protocol}}": BUDGET_LEFT % OURS}, "percentunit", "stat", 8),
        Panel("Version", {"": VERSIONS % OURS}, kind="table", width=6),
    ),
)
SATURATION = Row(
    "Saturation",
    (
        Panel("CPU: cores of one", {"{{pod}}": f'rate(process_cpu_seconds_total{{endpoint="ops", {OURS}}}{RATE})'}),
        Panel("Memory", {"{{pod}}": f'process_resident_memory_bytes{{endpoint="ops", {OURS}}}'}, "bytes"),
        Panel(
            "File descriptors",
            {"{{pod}}": f'process_open_fds{{endpoint="ops", {OURS}}} / process_max_fds'},
            "percentunit",
        ),
        Panel(
            "Database connections in use",
            {
                "{{pod}}": f'db_client_connection_count{{state="used", {OURS}}}'
                " / ignoring (state) db_client_connection_max"
            },
            "percentunit",
        ),
        Panel(
            "Redis connections in use",
            {"{{pod}}": f"redis_pool_connections_in_use{{{OURS}}} / redis_pool_connections_max"},
            "percentunit",
        ),
        Panel("Starts", {"{{pod}}": f'changes(process_start_time_seconds{{endpoint="ops", {OURS}}}[1h])'}),
    ),
)
DEPENDENCIES = Row(
    "Dependencies",
    (
        Panel("Health", {"{{check}}": f"max by (check) (health_check_up{{{OURS}}})"}),
        Panel(
            "Database: P95", {"{{operation}}": quantile(0.95, "db_client_operation_duration_seconds", "operation")}, "s"
        ),
        Panel("Database: P95 of the wait", {"wait": quantile(0.95, "db_client_connection_wait_seconds")}, "s"),
        Panel(
            "Database: slow and refused",
            {
                "slow": rate("db_client_slow_operations_total", "job"),
                "refused": rate("db_client_connection_timeouts_total", "job"),
            },
        ),
        Panel("Redis: P95", {"{{command}}": quantile(0.95, "redis_command_duration_seconds", "command")}, "s"),
        Panel("Redis: up", {"{{pod}}": f"redis_up{{{OURS}}}"}),
        Panel("Cache: hits", {"{{cache}}": share("cache_requests_total", "cache", 'result="hit"')}, "percentunit"),
        Panel(
            "Rate limits", {"{{rule}} {{verdict}} {{by}}": rate("ratelimit_checks_total", "rule, verdict, by")}, "reqps"
        ),
        Panel("Locks", {"{{lock}} {{result}}": rate("locks_total", "lock, result")}),
        Panel("Written behind: waits", {"{{queue}}": f"write_behind_waiting{{{OURS}}}"}),
        Panel(
            "Calls: rate",
            {"{{service}} {{code}}": rate("grpc_client_call_duration_seconds_count", "service, code")},
            "reqps",
        ),
        Panel("Calls: P95", {"{{service}}": quantile(0.95, "grpc_client_call_duration_seconds", "service")}, "s"),
        Panel("Breakers: 2 is open", {"{{breaker}}": f"max by (breaker) (breaker_state{{{OURS}}})"}),
        Panel("Refused", {"{{bulkhead}}": rate("bulkhead_refused_total", "bulkhead")}, "reqps"),
        Panel("Tokens", {"{{outcome}}": rate("auth_tokens_total", "outcome")}, "reqps"),
    ),
)
EVENTS = Row(
    "Events and workers",
    (
        Panel("Handled", {"{{topic}} {{outcome}}": rate("events_handled_duration_seconds_count", "topic, outcome")}),
        Panel("P95 of handling", {"{{topic}}": quantile(0.95, "events_handled_duration_seconds", "topic")}, "s"),
        Panel("Lag", {"{{topic}} {{group}}": f"sum by (topic, group) (events_consumer_lag{{{OURS}}})"}),
        Panel("Published", {"{{topic}}": rate("events_published_total", "topic")}),
        Panel("Oldest in the outbox", {"{{job}}": f"max by (job) (outbox_oldest_seconds{{{OURS}}})"}, "s"),
        Panel("Dead letters", {"{{topic}} {{reason}}": rate("events_dead_letters_total", "topic, reason")}),
        Panel("Worker", {"{{worker}} {{outcome}}": rate("worker_iteration_duration_seconds_count", "worker, outcome")}),
        Panel("Unhandled errors", {"{{where}}": rate("unhandled_errors_total", "where")}),
    ),
)
SERVICE = Dashboard(
    "microservice-detail",
    "Microservice Detail",
    (
        OBJECTIVES,
        red("http", "HTTP", "http_server_active_requests"),
        red("grpc", "gRPC", "grpc_server_active_calls"),
        SATURATION,
        DEPENDENCIES,
        EVENTS,
    ),
    VARIABLES,
    {"Deploy {{version}}": f"{VERSIONS % OURS} unless {VERSIONS.removesuffix(')') % OURS} offset 5m)"},
)
