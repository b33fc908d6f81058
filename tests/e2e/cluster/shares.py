"""How two releases share requests: counted by the releases themselves, compared with what was asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

ANSWERED = "http_server_request_duration_seconds_count"
# So many standard deviations: what is shared rightly looks wrong once in fifteen thousand times.
DEVIATIONS = 4.0
# Whole processes come and go between two counts, and proxies balance by what they see, not by chance.
SLACK = 0.03

Counts = Mapping[str, int]


def answered(metrics: str) -> int:
    """Return how many requests a process has answered since its start, by what `/metrics` says."""
    families = text_string_to_metric_families(metrics)
    samples = [sample for family in families for sample in family.samples if sample.name == ANSWERED]
    return int(sum(sample.value for sample in samples))


def growth(before: Counts, after: Counts) -> Counts:
    """Return what each process has answered between two counts; one that is new began at nothing."""
    return {name: count - before.get(name, 0) for name, count in after.items()}


def by_release(counts: Counts, release: Mapping[str, str]) -> Counter[str]:
    """Return the counts of processes added up for each release.

    Args:
        counts: by process.
        release: of each process.
    """
    total: Counter[str] = Counter()
    for name, count in counts.items():
        total[release[name]] += count
    return total


def tolerance(requests: int, expected: float) -> float:
    """Return by how much a measured share of so many requests may differ from the expected one."""
    return DEVIATIONS * math.sqrt(expected * (1 - expected) / requests) + (SLACK if 0 < expected < 1 else 0.0)


def check_share(counts: Counts, release: str, expected: float, at_least: int = 300) -> None:
    """Fail where a release has not answered its share.

    Args:
        counts: of requests, by release.
        release: whose share it is.
        expected: share, between 0 and 1.
        at_least: how many requests must have been answered for the share to say anything.
    """
    requests = sum(counts.values())
    assert requests >= at_least, f"{requests} requests are too few to tell: {dict(counts)}"
    share = counts.get(release, 0) / requests
    allowed = tolerance(requests, expected)
    assert abs(share - expected) <= allowed, (
        f"{release} has answered {share:.1%} of {requests} requests instead of {expected:.0%} ± {allowed:.1%}"
    )
