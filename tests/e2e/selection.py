"""A pytest plugin: tests marked `cluster` run where `MARTY_CLUSTER` names one; else they are left out, audibly."""

from __future__ import annotations

import os

import pytest

LEFT_OUT = "cluster tests: left out, for MARTY_CLUSTER names no context of kubectl (make e2e)"


def pytest_report_header() -> str:
    """Say whether tests of the cluster run."""
    context = os.environ.get("MARTY_CLUSTER")
    return f"cluster tests: on {context}" if context else LEFT_OUT


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out where there is no cluster."""
    if os.environ.get("MARTY_CLUSTER"):
        return
    left_out = [item for item in items if item.get_closest_marker("cluster")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
