"""The service's metrics, under the same names in every service, on prometheus-client's default registry.

RED for what comes in: `http_server_request_duration_seconds` (its `_count` is the rate, the label `status` the
errors) and `http_server_active_requests`. A service adds its own with prometheus-client as usual.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "<unmatched>"

HTTP_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Time to answer HTTP requests, in seconds.",
    ["method", "route", "status"],
    buckets=BUCKETS,
)
HTTP_ACTIVE = Gauge("http_server_active_requests", "HTTP requests being worked on.")
WORKER_DURATION = Histogram(
    "worker_iteration_duration_seconds",
    "Time of one iteration of a worker, in seconds.",
    ["worker", "outcome"],
    buckets=BUCKETS,
)
EVENTS_HANDLED = Histogram(
    "events_handled_duration_seconds",
    "Time to handle an event once, in seconds.",
    ["topic", "type", "outcome"],
    buckets=BUCKETS,
)
EVENTS_PUBLISHED = Histogram(
    "events_published_duration_seconds",
    "Time until the broker keeps what is published at once, in seconds.",
    ["outcome"],
    buckets=BUCKETS,
)
EVENTS_SENT = Counter("events_published", "Events that were published.", ["topic"])
EVENTS_LAG = Gauge("events_consumer_lag", "Messages that the group has yet to finish.", ["topic", "group"])
EVENTS_IN_FLIGHT = Gauge("events_in_flight", "Messages fetched and not yet finished.", ["group"])
DEAD_LETTERS = Counter("events_dead_letters", "Messages laid aside as dead letters.", ["topic", "reason"])
CHECK_UP = Gauge("health_check_up", "1 where the last check of a dependency passed.", ["check"])
UNHANDLED = Counter("unhandled_errors_total", "Errors that nobody expected.", ["where"])
SERVICE = Info("service", "The service, its version and environment.")

_children: dict[tuple[str, str, int], Histogram] = {}
_handled: dict[tuple[str, str, str], Histogram] = {}
_published: dict[str, Histogram] = {}
_sent: dict[str, Counter] = {}


def observe_http(method: str, route: str, status: int, seconds: float) -> None:
    """Record one answered HTTP request.

    Args:
        method: of the request; an unusual one counts as `OTHER`, for labels must stay few.
        route: the route's path with its parameters' names, or `UNMATCHED`.
        status: of the answer.
        seconds: from the first byte of the request to the last of the answer.
    """
    key = (method if method in METHODS else "OTHER", route, status)
    child = _children.get(key)
    if child is None:
        child = _children[key] = HTTP_DURATION.labels(*map(str, key))
    child.observe(seconds)


def observe_event(topic: str, kind: str, outcome: str, seconds: float) -> None:
    """Record that an event was handled.

    Args:
        topic: where it came from.
        kind: its type, where there is a handler for it.
        outcome: `ok`, `error` or `ignored`.
        seconds: that it took.
    """
    key = (topic, kind, outcome)
    child = _handled.get(key)
    if child is None:
        child = _handled[key] = EVENTS_HANDLED.labels(*key)
    child.observe(seconds)


def observe_publishing(outcome: str, seconds: float) -> None:
    """Record that events were published at once, `ok` or `error`."""
    child = _published.get(outcome)
    if child is None:
        child = _published[outcome] = EVENTS_PUBLISHED.labels(outcome)
    child.observe(seconds)


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
