"""The dashboards of Kafka and of the meshes: what their exporters and proxies say."""

from __future__ import annotations

from k8s.observability.grafana import Dashboard, Panel, Row

RATE = "[$__rate_interval]"
TO = 'destination_service_namespace=~"$namespace", destination_service_name=~"$service"'
WORKLOAD = 'direction="inbound", namespace=~"$namespace", deployment=~"$deployment"'

KAFKA = Dashboard(
    "kafka-monitoring",
    "Kafka Monitoring",
    (
        Row(
            "Cluster",
            (
                Panel("Brokers", {"": "max(kafka_brokers)"}, kind="stat", width=4),
                Panel("Partitions", {"{{topic}}": 'kafka_topic_partitions{topic=~"$topic"}'}, width=10),
                Panel(
                    "Partitions that lack copies",
                    {"{{topic}}": "sum by (topic) (kafka_topic_partition_under_replicated_partition)"},
                    width=10,
                ),
            ),
        ),
        Row(
            "Topics and groups",
            (
                Panel(
                    "Messages in",
                    {
                        "{{topic}}": "sum by (topic) "
                        f'(rate(kafka_topic_partition_current_offset{{topic=~"$topic"}}{RATE}))'
                    },
                ),
                Panel(
                    "Messages out",
                    {
                        "{{consumergroup}} {{topic}}": "sum by (consumergroup, topic) "
                        f'(rate(kafka_consumergroup_current_offset{{topic=~"$topic"}}{RATE}))',
                    },
                ),
                Panel(
                    "Lag",
                    {
                        "{{consumergroup}} {{topic}}": "sum by (consumergroup, topic) "
                        '(kafka_consumergroup_lag{topic=~"$topic"})',
                    },
                ),
                Panel("Members", {"{{consumergroup}}": "kafka_consumergroup_members"}),
                Panel(
                    "Kept",
                    {
                        "{{topic}}": 'sum by (topic) (kafka_topic_partition_current_offset{topic=~"$topic"}'
                        " - kafka_topic_partition_oldest_offset)",
                    },
                ),
            ),
        ),
        Row(
            "As the services see it",
            (
                Panel("Lag", {"{{job}} {{topic}}": "sum by (job, topic) (events_consumer_lag)"}),
                Panel(
                    "Handled",
                    {
                        "{{job}} {{outcome}}": "sum by (job, outcome) "
                        f"(rate(events_handled_duration_seconds_count{RATE}))"
                    },
                ),
                Panel("In flight", {"{{job}}": "sum by (job) (events_in_flight)"}),
                Panel("Outbox: pending", {"{{job}}": "max by (job) (outbox_pending)"}),
                Panel("Outbox: sent", {"{{job}}": f"sum by (job) (rate(outbox_sent_total{RATE}))"}),
                Panel(
                    "Dead letters",
                    {"{{job}} {{reason}}": f"sum by (job, reason) (rate(events_dead_letters_total{RATE}))"},
                ),
            ),
        ),
    ),
    {"topic": "label_values(kafka_topic_partitions, topic)"},
)


def _istio(matchers: str, by: str) -> str:
    return f"sum by ({by}) (rate(istio_requests_total{{{TO}, {matchers}}}{RATE}))"


def _istio_latency(share: float) -> str:
    series = f'istio_request_duration_milliseconds_bucket{{{TO}, reporter="source"}}'
    return f"histogram_quantile({share}, sum by (le) (rate({series}{RATE})))"


ISTIO = Dashboard(
    "istio",
    "Istio",
    (
        Row(
            "Requests, as their callers see them",
            (
                Panel(
                    "Rate",
                    {"{{destination_service_name}}": _istio('reporter="source"', "destination_service_name")},
                    "reqps",
                ),
                Panel(
                    "Errors",
                    {
                        "{{destination_service_name}}": _istio(
                            'reporter="source", response_code=~"5..|0"', "destination_service_name"
                        )
                        + " / "
                        + _istio('reporter="source"', "destination_service_name"),
                    },
                    "percentunit",
                ),
                Panel("Latency", {f"P{p}": _istio_latency(p / 100) for p in (50, 95, 99)}, "ms"),
                Panel(
                    "Why they failed",
                    {"{{response_flags}}": _istio('reporter="source", response_flags!="-"', "response_flags")},
                ),
                Panel(
                    "Split by version",
                    {"{{destination_version}}": _istio('reporter="destination"', "destination_version")},
                    "reqps",
                ),
                Panel(
                    "With mutual TLS",
                    {
                        "{{connection_security_policy}}": _istio(
                            'reporter="destination"', "connection_security_policy"
                        ),
                    },
                    "reqps",
                ),
                Panel(
                    "Turned away",
                    {
                        "{{destination_service_name}}": _istio(
                            'reporter="destination", response_code="403"', "destination_service_name"
                        ),
                    },
                    "reqps",
                ),
                Panel(
                    "TCP",
                    {
                        "sent": f"sum(rate(istio_tcp_sent_bytes_total{{{TO}}}{RATE}))",
                        "received": f"sum(rate(istio_tcp_received_bytes_total{{{TO}}}{RATE}))",
                    },
                    "Bps",
                ),
            ),
        ),
        Row(
            "Control plane",
            (
                Panel("Pushes", {"{{type}}": f"sum by (type) (rate(pilot_xds_pushes{RATE}))"}),
                Panel("Rejected", {"": "sum(rate(pilot_total_xds_rejects[5m]))"}),
                Panel(
                    "P99 until proxies have it",
                    {"": "histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[5m])))"},
                    "s",
                ),
                Panel(
                    "Root certificate: left",
                    {"": "min(citadel_server_root_cert_expiry_timestamp) - time()"},
                    "s",
                    "stat",
                ),
            ),
        ),
    ),
    {
        "namespace": "label_values(istio_requests_total, destination_service_namespace)",
        "service": "label_values("
        'istio_requests_total{destination_service_namespace=~"$namespace"}, destination_service_name)',
    },
)


def _linkerd_latency(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate(response_latency_ms_bucket{{{WORKLOAD}}}{RATE})))"


LINKERD = Dashboard(
    "linkerd",
    "Linkerd",
    (
        Row(
            "Requests that workloads take in",
            (
                Panel(
                    "Rate",
                    {"{{deployment}}": f"sum by (deployment) (rate(request_total{{{WORKLOAD}}}{RATE}))"},
                    "reqps",
                ),
                Panel(
                    "Success",
                    {
                        "{{deployment}}": "sum by (deployment) "
                        f'(rate(response_total{{{WORKLOAD}, classification="success"}}{RATE}))'
                        f" / sum by (deployment) (rate(response_total{{{WORKLOAD}}}{RATE}))",
                    },
                    "percentunit",
                ),
                Panel("Latency", {f"P{p}": _linkerd_latency(p / 100) for p in (50, 95, 99)}, "ms"),
                Panel(
                    "With mutual TLS", {"{{tls}}": f"sum by (tls) (rate(request_total{{{WORKLOAD}}}{RATE}))"}, "reqps"
                ),
                Panel(
                    "Turned away",
                    {"{{deployment}}": f"sum by (deployment) (rate(inbound_http_authz_deny_total{RATE}))"},
                    "reqps",
                ),
                Panel("Connections", {"{{deployment}}": f"sum by (deployment) (tcp_open_connections{{{WORKLOAD}}})"}),
                Panel(
                    "Certificates: left",
                    {"{{deployment}}": "min by (deployment) (identity_cert_expiration_timestamp_seconds) - time()"},
                    "s",
                ),
            ),
        ),
    ),
    {
        "namespace": "label_values(request_total, namespace)",
        "deployment": 'label_values(request_total{namespace=~"$namespace"}, deployment)',
    },
)
