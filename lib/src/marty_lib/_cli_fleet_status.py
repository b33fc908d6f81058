"""How many services stand: version, releases behind, and what is in the way of an update."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marty_lib import _cli_fleet_plan as plans
from marty_lib._cli_doctor import Finding, in_service
from marty_lib._cli_fleet_find import Service
from marty_lib._cli_fleet_processes import Failed
from marty_lib._cli_fleet_sources import Source
from marty_lib._cli_report import redacted


@dataclass(frozen=True)
class Row:
    """One service.

    Args:
        newest: release of its source, or the one that was asked for; empty where the source does not answer.
        behind: number of releases; None where the version is no release, nor follows one.
        health: what is in the way of an update; empty where nothing is.
    """

    folder: str
    name: str
    kind: str
    version: str
    newest: str
    behind: int | None
    health: list[Finding]

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON document."""
        return asdict(self)


def rows(paths: Sequence[Path], *, to: str | None, jobs: int) -> list[Row]:
    """Look at the services below some folders; each source is asked once.

    Raises:
        Failure: a path is no folder, or no service is there.
    """
    services = plans.services_below(paths)
    sources = plans.sources_of(services)
    targets = {spelled: _target(source, to) for spelled, source in sources.items()}
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda service: _row(service, sources, targets), services))


def _target(source: Source, to: str | None) -> str | Finding:
    """Return the tag to update to; where there is none, what is the matter with the source."""
    try:
        return source.target(to)
    except Failed as error:
        remedy = "See that you may read it; if it has moved, write its new address as _src_path, and commit."
        return Finding("unreachable", redacted(f"{source.address}: {error}"), remedy)


def _row(service: Service, sources: dict[str, Source], targets: dict[str, str | Finding]) -> Row:
    health: list[Finding] = []
    in_service(service.folder, health)
    newest, behind = "", None
    target = targets.get(service.source)
    if isinstance(target, Finding):
        health.append(target)
    elif target:
        newest, behind = target, sources[service.source].behind(service.version, target)
    if service.problem and not health:
        health.append(Finding("not-committed", f"It {service.problem}.", "Commit the service, then try again."))
    return Row(str(service.folder), service.name, service.kind, service.version, newest, behind, health)


def show(found: Sequence[Row]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("service", "kind", "version", "newest", "behind", "health", box=None, pad_edge=False)
    for row in found:
        behind = "?" if row.behind is None else str(row.behind)
        health = ", ".join(finding.code for finding in row.health) or "good"
        table.add_row(row.name, row.kind, row.version, row.newest or "?", behind, health)
    # What reads a pipe wants whole lines.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)
