"""`marty fleet`: look at many services, and update them; docs/fleet.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from marty_lib._cli_report import Exit, Failure, print_json, say

app = typer.Typer(no_args_is_help=True, help="Look at many services, and update them.")
Paths = Annotated[list[Path] | None, typer.Argument(help="Folders that hold services; . where none is named.")]
To = Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Version of the template; else the newest.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def status(paths: Paths = None, to: To = None, json: Json = False) -> None:
    """Show each service: its kind, its version, how many releases it is behind, and what stands in an update's way.

    Exit code 1: something does.
    """
    with _ending("fleet status", json):
        from marty_lib import _cli_fleet_status as statuses

        rows = statuses.rows(paths or [Path()], to=to, jobs=JOBS)
        code = Exit.FINDINGS if any(row.health for row in rows) else Exit.FINE
        if json:
            print_json({"command": "fleet status", "exit_code": code, "services": [row.as_json() for row in rows]})
        else:
            statuses.show(rows)
        raise typer.Exit(code)


@app.command()
def update(
    paths: Paths = None,
    to: To = None,
    branch: Annotated[
        str, typer.Option(help="Name of the branch that each repository gets.")
    ] = "marty/update-{version}",
    jobs: Annotated[int, typer.Option(min=1, help="Services at a time.")] = JOBS,
    test: Annotated[str, typer.Option(metavar="COMMAND", help="What each service must pass.")] = "make test",
    no_test: Annotated[bool, typer.Option("--no-test", help="Run no tests.")] = False,
    folder: Annotated[Path | None, typer.Option("--report", help="Folder for report.md, report.json and logs.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an interrupted run instead of resuming it.")
    ] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Push the branches, and open pull requests with gh.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", envvar="MARTY_TRUST", help="Let the template run code here.")
    ] = False,
    json: Json = False,
) -> None:
    """Update each service on a branch; nobody's work tree is touched. After an interruption, run it again.

    Exit code 1: a service has conflicts, fails its tests or could not be updated; the report says which.
    """
    with _ending("fleet update", json):
        from marty_lib import _cli_fleet_work as work

        order = work.Order(
            paths=paths or [Path()],
            to=to,
            branch=branch,
            jobs=jobs,
            test="" if no_test else test,
            folder=folder,
            restart=restart,
            pull_requests=pr,
            flags=("--trust",) if trust else (),
        )
        done = work.carry_out(order)
        if json:
            print_json({"command": "fleet update", "exit_code": done.code, **done.document})
        else:
            say(done.summary)
        raise typer.Exit(done.code)


@contextmanager
def _ending(command: str, as_json: bool) -> Iterator[None]:
    """End with the right exit code and a sentence that says what to do."""
    try:
        yield
    except Failure as failure:
        if as_json:
            print_json({"command": command, "exit_code": Exit.CANNOT, "error": failure.as_json()})
        else:
            say(f"marty: {failure.message}\n  {failure.remedy}")
        raise typer.Exit(Exit.CANNOT) from None
    except KeyboardInterrupt:
        say("marty: interrupted. What is done is kept: the same command goes on from here.")
        raise typer.Exit(Exit.INTERRUPTED) from None
