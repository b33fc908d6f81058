"""The service's metrics, under the same names in every service, on prometheus-client's default registry.

RED for what comes in: `http_server_request_duration_seconds` (its `_count` is the rate, the label `status` the
errors) and `http_server_active_requests`. A service adds its own with prometheus-client as usual.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Info
from prometheus_client.exposition import choose_encoder

from marty_lib._durations import BUCKETS as BUCKETS
from marty_lib._durations import Durations

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "<unmatched>"

HTTP_DURATION = Durations(
    "http_server_request_duration_seconds",
    "Time to answer HTTP requests, in seconds.",
    ["method", "route", "status"],
)
HTTP_ACTIVE = Gauge("http_server_active_requests", "HTTP requests being worked on.")
WORKER_DURATION = Durations(
    "worker_iteration_duration_seconds",
    "Time of one iteration of a worker, in seconds.",
    ["worker", "outcome"],
)
EVENTS_HANDLED = Durations(
    "events_handled_duration_seconds",
    "Time to handle an event once, in seconds.",
    ["topic", "type", "outcome"],
)
EVENTS_PUBLISHED = Durations(
    "events_published_duration_seconds",
    "Time until the broker keeps what is published at once, in seconds.",
    ["outcome"],
)
EVENTS_SENT = Counter("events_published", "Events that were published.", ["topic"])
EVENTS_LAG = Gauge("events_consumer_lag", "Messages that the group has yet to finish.", ["topic", "group"])
EVENTS_IN_FLIGHT = Gauge("events_in_flight", "Messages fetched and not yet finished.", ["group"])
DEAD_LETTERS = Counter("events_dead_letters", "Messages laid aside as dead letters.", ["topic", "reason"])
CHECK_UP = Gauge("health_check_up", "1 where the last check of a dependency passed.", ["check"])
UNHANDLED = Counter("unhandled_errors_total", "Errors that nobody expected.", ["where"])
SERVICE = Info("service", "The service, its version and environment.")

_sent: dict[str, Counter] = {}


def observe_http(method: str, route: str, status: int, seconds: float) -> None:
    """Record one answered HTTP request.

    Args:
        method: of the request; an unusual one counts as `OTHER`, for labels must stay few.
        route: the route's path with its parameters' names, or `UNMATCHED`.
        status: of the answer.
        seconds: from the first byte of the request to the last of the answer.
    """
    HTTP_DURATION.observe(seconds, method if method in METHODS else "OTHER", route, str(status))


def count_sent(topic: str, count: int) -> None:
    """Count events that the broker keeps."""
    child = _sent.get(topic)
    if child is None:
        child = _sent[topic] = EVENTS_SENT.labels(topic)
    child.inc(count)


def render(accept: str = "") -> tuple[bytes, str]:
    """Return all metrics, and their content type, in the format that `accept` asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(REGISTRY), content_type
