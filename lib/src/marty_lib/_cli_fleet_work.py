"""`marty fleet update` from its options to its report."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marty_lib import _cli_fleet_plan as plans
from marty_lib import _cli_fleet_report as report
from marty_lib._cli_fleet_journal import BRANCH_EXISTS, CONFLICTS, FAILED, TESTS_FAILED, Journal, OtherRun, Result
from marty_lib._cli_fleet_run import Tell, run
from marty_lib._cli_fleet_sources import configuration
from marty_lib._cli_fleet_update import Setup, Task
from marty_lib._cli_report import Exit, Failure, say

BAD = {CONFLICTS, TESTS_FAILED, FAILED}


@dataclass(frozen=True)
class Order:
    """The options of the command; see its help."""

    paths: Sequence[Path]
    to: str | None
    branch: str
    jobs: int
    test: str
    folder: Path | None
    restart: bool
    pull_requests: bool
    flags: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """What a run must share with an interrupted one to resume it."""
        return {"to": self.to, "branch": self.branch, "test": self.test, "flags": list(self.flags)}


@dataclass(frozen=True)
class Done:
    """How a run has ended: exit code, JSON, and a sentence."""

    code: Exit
    document: dict[str, Any]
    summary: str


def carry_out(order: Order) -> Done:
    """Update the services.

    Raises:
        Failure: it cannot begin, and nothing has been done; or it cannot go on, and what is done is kept.
        KeyboardInterrupt: it can be resumed.
    """
    began = time.monotonic()
    folder = (order.folder or plans.default_folder(order.paths)).resolve()
    plans.check_branch(order.branch)
    services = plans.services_below(order.paths, outside=folder)
    sources = plans.sources_of(services)
    settings = plans.shared(sources)
    tasks = plans.tasks_for(services, sources, to=order.to, branch=order.branch)
    if order.pull_requests:
        plans.check_pull_requests(tasks)
    plans.check_git(tasks)
    with plans.reserved(folder), _journal(folder / "journal.jsonl", order) as journal:
        try:
            _run(order, tasks, folder, settings, journal)
            results = [journal.results[str(task.service.folder)] for task in tasks]
            seconds = time.monotonic() - began
            report.write(folder, results, seconds)
        except OSError as error:
            remedy = "Mend that, then run the same command again: it goes on from here."
            raise Failure("cannot-write", f"The run has ended early: {error}.", remedy) from None
    document = report.document(results, seconds) | {"report": str(folder / "report.md")}
    return Done(_code(results, order), document, f"{report.summary(results)}. Report: {folder / 'report.md'}")


def _run(order: Order, tasks: Sequence[Task], folder: Path, settings: dict[str, str], journal: Journal) -> None:
    # All services read the sources' mirrors, so Copier's own need not outlive the run.
    cache = folder / "cache"
    setup = Setup(folder, order.test, order.flags, {**configuration(settings), "COPIER_CACHE_DIR": str(cache)})
    with _telling(len(tasks)) as tell:
        run(tasks, setup, journal, jobs=order.jobs, pull_requests=order.pull_requests, tell=tell)
    shutil.rmtree(cache, ignore_errors=True)


def _code(results: Sequence[Result], order: Order) -> Exit:
    on_branch = [each for each in results if each.commit or each.outcome == BRANCH_EXISTS]
    unproposed = order.pull_requests and not all(each.pull_request for each in on_branch)
    return Exit.FINDINGS if unproposed or any(each.outcome in BAD for each in results) else Exit.FINE


@contextmanager
def _journal(path: Path, order: Order) -> Iterator[Journal]:
    """Open the journal, that of an interrupted run where there is one; it goes when the run is done.

    Raises:
        Failure: the interrupted run had other options.
    """
    if order.restart:
        path.unlink(missing_ok=True)
    try:
        journal = Journal(path, order.options)
    except OtherRun as error:
        remedy = "Run it again with the same options, or add --restart to forget it."
        raise Failure("other-options", f"{error}.", remedy) from None
    if journal.results:
        say(f"Going on where an interrupted run has ended: {len(journal.results)} services are done.")
    done = False
    try:
        yield journal
        done = True
    finally:
        journal.close(done=done)


@contextmanager
def _telling(total: int) -> Iterator[Tell]:
    """Show progress on standard error: a bar on a terminal, else a line a service."""
    number = 0

    def line(result: Result) -> None:
        nonlocal number
        number += 1
        say(f"[{number}/{total}] {_sentence(result)}")

    if not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Updating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=total)

        def advance(result: Result) -> None:
            progress.advance(bar)
            if result.outcome in BAD:
                progress.console.print(_sentence(result), markup=False, highlight=False)

        yield advance


def _sentence(result: Result) -> str:
    about = f" ({', '.join(result.conflicts) or result.message})" if result.conflicts or result.message else ""
    versions = f"{result.old} -> {result.new}" if result.new else result.old
    return f"{result.name}: {result.outcome}{about}, {versions}, {result.seconds:.1f} s"
