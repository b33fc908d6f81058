"""RED for gRPC, in and out; `_count` is the rate, the label `code` the errors."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

from marty_lib.metrics import BUCKETS

SERVER_DURATION = Histogram(
    "grpc_server_call_duration_seconds",
    "Time of calls that were answered, in seconds; of a stream until its end.",
    ["method", "code"],
    buckets=BUCKETS,
)
SERVER_ACTIVE = Gauge("grpc_server_active_calls", "Calls being answered.")
CLIENT_DURATION = Histogram(
    "grpc_client_call_duration_seconds",
    "Time of calls to other services, in seconds; of a stream until its end.",
    ["service", "method", "code"],
    buckets=BUCKETS,
)

_children: dict[tuple[Histogram, tuple[str, ...]], Histogram] = {}


def observe(histogram: Histogram, seconds: float, *labels: str) -> None:
    """Record one call; the labels must be few: names of methods that exist, and of codes."""
    key = (histogram, labels)
    child = _children.get(key)
    if child is None:
        child = _children[key] = histogram.labels(*labels)
    child.observe(seconds)
