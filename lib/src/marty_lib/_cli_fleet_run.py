"""One run over many services: some at a time, each result written down at once, so that it can go on any time."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marty_lib import _cli_fleet_branches as branches
from marty_lib import _cli_fleet_processes as processes
from marty_lib import _cli_fleet_trees as trees
from marty_lib import _cli_fleet_update as updates
from marty_lib._cli_fleet_journal import Journal, Result
from marty_lib._cli_fleet_update import Setup, Task

Group = tuple[Path, str]
Tell = Callable[[Result], None]


def run(tasks: Sequence[Task], setup: Setup, journal: Journal, *, jobs: int, pull_requests: bool, tell: Tell) -> None:
    """Update services, then make the branch of each repository; the results are in the journal.

    Args:
        jobs: how many services at a time.
        tell: is told each result as it comes.

    Raises:
        KeyboardInterrupt: after everything that ran has been ended and cleared away.
    """
    groups: dict[Group, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[task.group].append(task)
    repositories = {task.service.repository for task in tasks if task.service.repository}
    with _cleared(setup.work, repositories), ThreadPoolExecutor(jobs) as pool:
        try:
            _work(pool, jobs, groups, setup, journal, pull_requests, tell)
        except BaseException:
            processes.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _work(
    pool: Executor,
    jobs: int,
    groups: dict[Group, list[Task]],
    setup: Setup,
    journal: Journal,
    pull_requests: bool,
    tell: Tell,
) -> None:
    waiting: deque[Task] = deque()
    left: dict[Group, int] = {}
    updating: dict[Future[Result], Group] = {}
    finishing: set[Future[list[Result]]] = set()

    def finish_if_complete(group: Group) -> None:
        if not left[group]:
            results = [journal.results[str(task.service.folder)] for task in groups[group]]
            finishing.add(pool.submit(branches.finish, group[0], results, pull_request=pull_requests))

    for group, tasks in groups.items():
        known = {task: _known(task, journal) for task in tasks}
        for result in filter(None, known.values()):
            tell(result)
        missing = [task for task, result in known.items() if result is None]
        waiting += missing
        left[group] = len(missing)
        finish_if_complete(group)
    while waiting or updating or finishing:
        # No more than can run, so that a branch need not wait until all services are updated.
        while waiting and len(updating) + len(finishing) < jobs:
            task = waiting.popleft()
            updating[pool.submit(updates.update, task, setup)] = task.group
        running: set[Future[Any]] = {*updating, *finishing}
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for finished in done & finishing:
            finishing.discard(finished)
            for result in finished.result():
                journal.add(result)
        for updated in done & updating.keys():
            group = updating.pop(updated)
            journal.add(updated.result())
            tell(updated.result())
            left[group] -= 1
            finish_if_complete(group)


def _known(task: Task, journal: Journal) -> Result | None:
    """Return the result that an interrupted run had, if the service and its update are still the same."""
    result = journal.results.get(str(task.service.folder))
    if result is None or (result.head, result.new, result.branch) != (task.service.head, task.target, task.branch):
        return None
    return result if not result.commit or trees.exists(task.group[0], result.commit) else None


@contextmanager
def _cleared(work: Path, repositories: set[Path]) -> Iterator[None]:
    """Clear away work trees: before the run what a killed one has left, after it what an interruption has."""
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        trees.remove_all(work, repositories)
    try:
        yield
    except BaseException:
        processes.go()
        trees.remove_all(work, repositories)
        raise
