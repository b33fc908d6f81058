"""Histograms of durations read by Prometheus as prometheus-client's own do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from marty_lib._durations import BUCKETS, Durations
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics


@pytest.fixture
def durations() -> Iterator[Durations]:
    made = Durations("thing_duration_seconds", "Time of things, in seconds.", ["thing"])
    yield made
    REGISTRY.unregister(made)


@pytest.mark.parametrize("encode", [generate_latest, generate_openmetrics])
def test_the_text_is_what_prometheus_clients_own_histogram_gives(durations: Durations, encode: object) -> None:
    assert callable(encode)
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    ours.register(durations)
    histogram = Histogram(
        "thing_duration_seconds", "Time of things, in seconds.", ["thing"], buckets=BUCKETS, registry=theirs
    )
    for seconds in (0.0, 0.005, 0.0051, 0.25, 10.0, 11.0):
        durations.observe(seconds, "a")
        histogram.labels("a").observe(seconds)
    durations.observe(1.0, "b")
    histogram.labels("b").observe(1.0)

    wanted = [line for line in encode(theirs).decode().splitlines() if "_created" not in line]
    assert encode(ours).decode().splitlines() == wanted


def test_a_name_that_is_taken_is_refused(durations: Durations) -> None:
    with pytest.raises(ValueError, match="thing_duration_seconds"):
        Durations("thing_duration_seconds", "Another.", ["thing"])
