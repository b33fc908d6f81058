"""How many services stand: version, releases behind, and what is in the way of an update."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marty_lib import _cli_fleet_plan as plans
from marty_lib._cli_fleet_find import Service
from marty_lib._cli_fleet_processes import Failed, git
from marty_lib._cli_fleet_sources import Source


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
    health: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON document."""
        return asdict(self)


def rows(paths: Sequence[Path], *, to: str | None, jobs: int) -> list[Row]:
    """Look at the services below some folders; each source is asked once.

    Raises:
        Failure: a path is no folder, or no service is there.
    """
    services = plans.services_below(paths)
    newest: dict[str, tuple[Source, str, str]] = {}
    for spelled, source in plans.sources_of(services).items():
        try:
            newest[spelled] = source, source.target(to), ""
        except Failed as error:
            newest[spelled] = source, "", str(error)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda service: _row(service, *newest.get(service.source, (None, "", ""))), services))


def _row(service: Service, source: Source | None, target: str, problem: str) -> Row:
    behind = source.behind(service.version, target) if source and target else None
    health = [each for each in (service.problem, problem) if each]
    if not health:
        health = _findings(service)
    return Row(str(service.folder), service.name, service.kind, service.version, target, behind, health)


def _findings(service: Service) -> list[str]:
    changed = git(service.folder, "status", "--porcelain", "--", ".")
    return ["not everything is committed"] if changed else []


def show(found: Sequence[Row]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("service", "kind", "version", "newest", "behind", "health", box=None, pad_edge=False)
    for row in found:
        behind = "?" if row.behind is None else str(row.behind)
        table.add_row(row.name, row.kind, row.version, row.newest or "?", behind, "; ".join(row.health) or "good")
    # What reads a pipe wants whole lines.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)
