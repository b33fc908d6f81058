"""`marty new` renders what the template renders, at once or not at all."""

from __future__ import annotations

import inspect
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from marty_lib import _cli_questions as questions
from marty_lib import cli

from tests.conftest import ROOT
from tests.updates.small import MARTY, content, marty

REAL = ("--template", str(ROOT), "--to", "HEAD")


def asked() -> dict[str, dict[str, object]]:
    """Return the questions of the real template."""
    found = yaml.safe_load((ROOT / "copier.yml").read_text())
    return {name: question for name, question in found.items() if not name.startswith("_")}


def test_every_question_is_an_option() -> None:
    parameters = inspect.signature(cli.new).parameters
    assert set(questions.QUESTIONS) == set(asked())
    assert set(questions.QUESTIONS) <= set(parameters)


@pytest.mark.parametrize("name", asked())
def test_the_help_of_an_option_is_the_questions(name: str) -> None:
    question = asked()[name]
    annotation = inspect.signature(cli.new, eval_str=True).parameters[name].annotation
    (option,) = annotation.__metadata__
    choices = question.get("choices", [])
    listed = list(choices.values()) if isinstance(choices, dict) else choices
    assert str(question.get("help", "")) in option.help
    assert (f"; one of {', '.join(listed)}" in option.help) == bool(listed)  # type: ignore[arg-type]


def listed(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones included."""
    return [path.name for path in folder.iterdir()]


def new(template: Path, *arguments: str) -> list[str]:
    """Return the arguments for the small template."""
    return ["new", "orders", "--template", str(template), *arguments]


def test_a_service_is_rendered_with_its_answers(small_template: Path, tmp_path: Path) -> None:
    ended = marty(tmp_path, *new(small_template, "--data", "port=9090", "--to", "v1.0.0", "--json"))
    assert ended.code == 0, ended.out
    made = ended.json
    assert (made["to"], made["answers"]) == ("v1.0.0", {"port": 9090, "service_name": "orders"})
    assert (tmp_path / "orders/port.md").read_text() == "9090\n"
    assert made["files"] == sorted(content(tmp_path / "orders"))
    assert listed(tmp_path) == ["orders"]


def test_a_dry_run_keeps_nothing(small_template: Path, tmp_path: Path) -> None:
    ended = marty(tmp_path, *new(small_template, "--dry-run", "--json"))
    assert (ended.code, ended.json["dry_run"]) == (0, True)
    assert "text.md" in ended.json["files"]
    assert listed(tmp_path) == []


def test_what_is_there_is_not_written_over(small_template: Path, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders/own.txt").write_text("mine\n")
    ended = marty(tmp_path, *new(small_template, "--json"))
    assert (ended.code, ended.json["error"]["code"]) == (3, "not-empty")
    assert listed(tmp_path / "orders") == ["own.txt"]


def test_a_template_that_is_not_there(tmp_path: Path) -> None:
    ended = marty(tmp_path, *new(tmp_path / "nothing", "--json"))
    assert (ended.code, ended.json["error"]["code"]) == (3, "unreachable")
    assert listed(tmp_path) == []


def test_a_version_that_is_not_there(small_template: Path, tmp_path: Path) -> None:
    ended = marty(tmp_path, *new(small_template, "--to", "v8.0.0", "--json"))
    assert (ended.code, ended.json["error"]["code"]) == (3, "unknown-version")


def test_the_real_template_takes_the_options(tmp_path: Path) -> None:
    identity = ["--author-name", "Ada", "--author-email", "ada@example.com"]
    ended = marty(tmp_path, "new", "minimal", "order-service", *REAL, "--ops-port", "9100", *identity)
    assert ended.code == 0, ended.err
    assert "order-service is ready" in ended.out
    answers = yaml.safe_load((tmp_path / "order-service/.copier-answers.yml").read_text())
    assert (answers["service_kind"], answers["ops_port"], answers["author_name"]) == ("minimal", 9100, "Ada")


def test_a_bad_answer_is_named(tmp_path: Path) -> None:
    identity = ["--author-name", "Ada", "--author-email", "ada@example.com"]
    ended = marty(tmp_path, "new", "fastapi", "order-service", *REAL, "--mesh", "osm", *identity)
    assert ended.code == 3
    assert "mesh: 'osm' is no choice" in ended.err
    assert listed(tmp_path) == []


def test_what_is_missing_is_asked_for_on_a_terminal(small_template: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [*MARTY, *new(small_template)]
    variables = {**os.environ, "MARTY_TRUST": "1", "TERM": "dumb"}
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        until(ours, b"port")
        os.write(ours, b"1\r")
        until(ours, b"is ready")
    os.close(ours)
    assert process.returncode == 0
    assert (tmp_path / "orders/port.md").read_text() == "80001\n"


def until(terminal: int, word: bytes) -> None:
    """Read what a terminal shows until a word comes."""
    shown = b""
    while word not in shown:
        try:
            more = os.read(terminal, 1024)
        except OSError:
            more = b""
        assert more, shown.decode()
        shown += more
