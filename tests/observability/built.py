"""What `kubectl apply -k k8s/observability` applies, built once."""

from __future__ import annotations

import functools
import re
from typing import Any

from tests.manifests.tools import Manifest, build, pick
from tests.observability.rules import OBSERVABILITY

WORKLOADS = ("Deployment", "StatefulSet")


@functools.cache
def stack() -> list[Manifest]:
    """Return what `kubectl apply -k k8s/observability` applies."""
    return build(OBSERVABILITY)


def workloads() -> dict[str, Manifest]:
    """Return what runs, by name."""
    return {each["metadata"]["name"]: each for kind in WORKLOADS for each in pick(stack(), kind)}


def file_of(name: str, key: str) -> str:
    """Return a file of a ConfigMap, whatever hash ends the map's name."""
    (found,) = [
        each for each in pick(stack(), "ConfigMap") if re.fullmatch(f"{name}-[0-9a-z]{{10}}", each["metadata"]["name"])
    ]
    text: str = found["data"][key]
    return text


def environment(workload: Manifest) -> list[dict[str, Any]]:
    """Return the variables of a workload's container."""
    found: list[dict[str, Any]] = workload["spec"]["template"]["spec"]["containers"][0].get("env", [])
    return found
