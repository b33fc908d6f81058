"""The `marty` command: new services, and updates that lose nothing."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from marty_lib import _cli_questions as ask
from marty_lib import _cli_report as report
from marty_lib._cli_fleet import app as fleet
from marty_lib._cli_git import GitError, Place, forget_the_callers_repository
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
    for number in report.SIGNALS[1:]:  # Ctrl-C does so already, unless a shell has said that it shall not
        signal.signal(number, interrupted)


def interrupted(*_: object) -> None:
    """End as Ctrl-C does, so that everything is cleaned up."""
    raise KeyboardInterrupt


@contextmanager
def ending(command: str, as_json: bool) -> Iterator[None]:
    """End with the right exit code and a sentence that says what to do."""
    try:
        yield
    except (Failure, GitError, OSError) as error:
        failure = error if isinstance(error, Failure) else unforeseen(error)
        if as_json:
            report.print_json({"command": command, "exit_code": Exit.CANNOT, "error": failure.as_json()})
        else:
            report.say(f"marty: {failure.message}\n  {failure.remedy}")
        raise typer.Exit(Exit.CANNOT) from None
    except KeyboardInterrupt:
        report.say("marty: interrupted; nothing has been changed.")
        raise typer.Exit(Exit.INTERRUPTED) from None


def unforeseen(error: GitError | OSError) -> Failure:
    """Return what git or the system has refused as a failure; the commands have changed nothing by then."""
    code = "git" if isinstance(error, GitError) else "system"
    return Failure(code, f"{'Git' if code == 'git' else 'The system'} says: {error}.", "Mend that, then try again.")


def answers(data: list[str] | None) -> dict[str, str]:
    """Return what `--data` gives, by name."""
    pairs = [each.partition("=") for each in data or ()]
    if bad := [name for name, equals, _ in pairs if not equals or not name]:
        raise typer.BadParameter(f"{bad[0]!r} is no NAME=VALUE", param_hint="--data")
    return {name: value for name, _, value in pairs}


@app.command()
def new(
    name: Annotated[
        list[str], typer.Argument(help="Kind of the service, and its name or folder.", metavar="[KIND] NAME")
    ],
    template: Annotated[
        str, typer.Option("--template", envvar="MARTY_TEMPLATE", metavar="SOURCE", help="The template's address.")
    ] = "gh:org/marty",
    to: To = None,
    service_name: ask.ServiceName = None,
    service_description: ask.ServiceDescription = None,
    author_name: ask.AuthorName = None,
    author_email: ask.AuthorEmail = None,
    service_kind: ask.ServiceKind = None,
    http_port: ask.HttpPort = None,
    grpc_port: ask.GrpcPort = None,
    ops_port: ask.OpsPort = None,
    broker: ask.Broker = None,
    mesh: ask.Mesh = None,
    namespace: ask.Namespace = None,
    domain: ask.Domain = None,
    image_registry: ask.ImageRegistry = None,
    python_version: ask.PythonVersion = None,
    copyright_year: ask.CopyrightYear = None,
    marty_lib_source: ask.MartyLibSource = None,
    data: Data = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ask nothing; take the default answers.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be rendered, and keep nothing.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Render a new service.

    Each question of the template is an option. What is missing is asked for on a terminal, else the default is taken.
    """
    given = {question: value for question, value in locals().items() if question in ask.QUESTIONS and value}
    if len(name) > 2:
        raise typer.BadParameter("give a kind and a name, no more", param_hint="[KIND] NAME")
    if len(name) == 2:
        given.setdefault("service_kind", name[0])
    folder = Path(name[-1])
    given.setdefault("service_name", folder.name)
    with ending("new", json):
        from marty_lib import _cli_new as work
        from marty_lib import _cli_show as show

        asking = sys.stdin.isatty() and not (defaults or json)
        everything = given | answers(data)
        made = work.new(folder, template=template, to=to, data=everything, trust=trust, ask=asking, dry=dry_run)
        if json:
            report.print_json({"command": "new", "exit_code": Exit.FINE, **made.as_json()})
        else:
            show.rendered(made)


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
        with work.alone(place):
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


@app.command()
def doctor(folder: Folder = Path(), trust: Trust = False, json: Json = False) -> None:
    """Say why an update would not work, and what to do about each reason. Exit code 1: there are some."""
    with ending("doctor", json):
        from marty_lib import _cli_show as show
        from marty_lib._cli_doctor import examine

        health = examine(folder, trust=trust)
        code = Exit.FINDINGS if health.findings else Exit.FINE
        if json:
            report.print_json({"command": "doctor", "exit_code": code, **health.as_json()})
        else:
            show.health(health)
        raise typer.Exit(code)


def run() -> None:
    """Run the command; what the script `marty` calls."""
    app()


if __name__ == "__main__":
    run()
