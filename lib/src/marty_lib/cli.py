"""The `marty` command: new services, and updates that lose nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from marty_lib import _cli_report as report
from marty_lib._cli_fleet import app as fleet
from marty_lib._cli_git import Place, forget_the_callers_repository
from marty_lib._cli_report import Exit, Failure

app = typer.Typer(
    help="Render microservices with Marty, and carry them to its newest version.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 conflicts or findings, 2 wrong usage, 3 cannot be done and nothing was changed.",
)
app.add_typer(fleet, name="fleet")

Folder = Annotated[Path, typer.Argument(help="Folder of the service.", metavar="[FOLDER]")]
To = Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Version of the template; else the newest.")]
Data = Annotated[
    list[str] | None, typer.Option("--data", metavar="NAME=VALUE", help="Change an answer; may be given again.")
]
Trust = Annotated[bool, typer.Option("--trust", envvar="MARTY_TRUST", help="Let the template run code here.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@app.callback()
def main() -> None:
    """Set up what all commands need."""
    forget_the_callers_repository()
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)


def interrupted(*_: object) -> None:
    """End as Ctrl-C does, so that everything is cleaned up."""
    raise KeyboardInterrupt


@contextmanager
def ending(command: str, as_json: bool) -> Iterator[None]:
    """End with the right exit code and a sentence that says what to do."""
    try:
        yield
    except Failure as failure:
        if as_json:
            report.print_json({"command": command, "exit_code": Exit.CANNOT, "error": failure.as_json()})
        else:
            report.say(f"marty: {failure.message}\n  {failure.remedy}")
        raise typer.Exit(Exit.CANNOT) from None
    except KeyboardInterrupt:
        report.say("marty: interrupted; nothing has been changed.")
        raise typer.Exit(Exit.INTERRUPTED) from None


def answers(data: list[str] | None) -> dict[str, str]:
    """Return what `--data` gives, by name."""
    pairs = [each.partition("=") for each in data or ()]
    if bad := [name for name, equals, _ in pairs if not equals or not name]:
        raise typer.BadParameter(f"{bad[0]!r} is no NAME=VALUE", param_hint="--data")
    return {name: value for name, _, value in pairs}


@app.command()
def preview(
    folder: Folder = Path(),
    to: To = None,
    data: Data = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show the diff, too.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Show what an update would do: what is new, and each path it adds, changes, merges, renames, deletes.

    Nothing is changed. Exit code 1: the update would leave conflicts.
    """
    with ending("preview", json):
        from marty_lib import _cli_show as show
        from marty_lib._cli_plan import planned

        with planned(Place.of(folder), to=to, data=answers(data), trust=trust) as plan:
            code = Exit.FINDINGS if plan.conflicts else Exit.FINE
            if json:
                extra: dict[str, Any] = {"diff": plan.diff} if diff else {}
                report.print_json({"command": "preview", "exit_code": code, **plan.as_json(), **extra})
            else:
                show.plan(plan, diff=diff)
        raise typer.Exit(code)


@app.command()
def update(
    folder: Folder = Path(),
    to: To = None,
    data: Data = None,
    resume: Annotated[bool, typer.Option("--continue", help="Stage an update whose conflicts are solved.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Take an update back that is not committed.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Carry the service to a newer template, with every edit kept.

    It is made in a scratch copy and brought in at once: whatever goes wrong, the service is as it was. Exit code 1:
    there are conflicts to solve.
    """
    if resume and abort:
        raise typer.BadParameter("--continue and --abort exclude each other")
    with ending("update", json):
        from marty_lib import _cli_show as show
        from marty_lib import _cli_update as work

        place = Place.of(folder)
        if resume or abort:
            document, code = show.resumed(place) if resume else show.aborted(place)
        else:
            plan = work.update(place, to=to, data=answers(data), trust=trust)
            document, code = show.updated(plan), Exit.FINDINGS if plan.conflicts else Exit.FINE
            if not json:
                show.plan(plan)
        if json:
            report.print_json({"command": "update", "exit_code": code, **document})
        else:
            for sentence in document["next"]:
                report.say(sentence)
        raise typer.Exit(code)


def run() -> None:
    """Run the command; what the script `marty` calls."""
    app()


if __name__ == "__main__":
    run()
