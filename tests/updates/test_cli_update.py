"""`marty preview` and `marty update` on a small template: what they show, bring in and take back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.updates.history import git
from tests.updates.small import LINES, commit, marty, state, write

MINE = LINES.replace("line 2\n", "line deux\n")
BOTH = LINES.replace("line 20\n", "line vingt\n")


def edit(service: Path, files: dict[str, str]) -> None:
    """Do what the owner does, and commit it."""
    write(service, files)
    commit(service, "Edit")


def test_preview_names_each_path_and_touches_nothing(service: Path) -> None:
    edit(service, {"text.md": BOTH, "own.txt": "mine\n"})
    before = state(service)
    ended = marty(service, "preview", "--json", "--diff")
    assert ended.code == 0, ended.err
    seen = ended.json
    assert (seen["from"], seen["to"], seen["releases"], seen["conflicts"]) == ("v1.0.0", "v2.0.0", ["v2.0.0"], [])
    assert {each["path"]: (each["change"], each["old_path"], each["edited"]) for each in seen["changes"]} == {
        ".copier-answers.yml": ("changed", None, False),
        "code/gone.py": ("deleted", None, False),
        "code/more.py": ("added", None, False),
        "code/new.py": ("renamed", "code/old.py", False),
        "text.md": ("merged", None, True),
    }
    assert seen["changelog"] == "## 2.0.0 (2026-02-02)\n\n- What you do: nothing."
    assert seen["notes"] == ["a migration has run"]
    git(service, "apply", "--check", str(diff_file(service, seen["diff"])))
    assert state(service) == before


def diff_file(service: Path, diff: str) -> Path:
    """Write a diff beside the service."""
    path = service.parent / "diff"
    path.write_text(diff)
    return path


def test_update_brings_in_what_preview_has_shown(service: Path) -> None:
    edit(service, {"text.md": BOTH, "own.txt": "mine\n"})
    shown = marty(service, "preview", "--json").json
    ended = marty(service, "update", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["state"] == "updated"
    assert ended.json["changes"] == shown["changes"]
    assert (service / "text.md").read_text() == BOTH.replace("line 2\n", "line two\n")
    staged = git(service, "status", "--porcelain")
    assert staged.split("\n")[:-1] == [
        "M  .copier-answers.yml",
        "D  code/gone.py",
        "A  code/more.py",
        "R  code/old.py -> code/new.py",
        "M  text.md",
    ]
    commit(service, "Update")
    again = marty(service, "update", "--json")
    assert (again.code, again.json["state"]) == (0, "up-to-date")
    assert git(service, "status", "--porcelain") == ""


def test_a_conflict_is_an_exit_code_a_name_and_both_texts(service: Path) -> None:
    edit(service, {"text.md": MINE})
    shown = marty(service, "preview", "--json")
    assert (shown.code, shown.json["conflicts"]) == (1, ["text.md"])
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["state"], ended.json["conflicts"]) == (1, "conflicts", ["text.md"])
    text = (service / "text.md").read_text()
    assert "line deux\n" in text
    assert "line two\n" in text
    assert len(git(service, "ls-files", "--unmerged").splitlines()) == 3


def test_continue_demands_that_all_conflicts_are_solved(service: Path) -> None:
    edit(service, {"text.md": MINE})
    assert marty(service, "update").code == 1
    early = marty(service, "update", "--continue", "--json")
    assert (early.code, early.json["conflicts"]) == (1, ["text.md"])
    (service / "text.md").write_text(MINE.replace("line deux", "line deux, two"))
    ended = marty(service, "update", "--continue", "--json")
    assert (ended.code, ended.json["state"]) == (0, "updated")
    assert git(service, "ls-files", "--unmerged") == ""
    assert "M  text.md" in git(service, "status", "--porcelain")


@pytest.mark.parametrize("text", [MINE, BOTH])
def test_abort_leaves_the_service_as_it_was(service: Path, text: str) -> None:
    edit(service, {"text.md": text, ".gitignore": "*.local\n"})
    write(service, {"secret.local": "ours\n"})
    before = state(service)
    marty(service, "update")
    assert state(service) != before
    ended = marty(service, "update", "--abort", "--json")
    assert (ended.code, ended.json["state"], ended.json["stash"]) == (0, "aborted", None)
    assert state(service) == before


def test_abort_keeps_what_was_typed_since(service: Path) -> None:
    edit(service, {"text.md": MINE})
    marty(service, "update")
    write(service, {"text.md": "solved with much thought\n", "code/own.py": "new = 1\n"})
    ended = marty(service, "update", "--abort", "--json")
    assert ended.code == 0
    assert (service / "text.md").read_text() == MINE
    assert (service / "code/own.py").read_text() == "new = 1\n"
    assert git(service, "show", f"{ended.json['stash']}:text.md") == "solved with much thought\n"


def test_an_update_that_is_under_way_is_named(service: Path) -> None:
    edit(service, {"text.md": MINE})
    marty(service, "update")
    before = state(service)
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, "unfinished")
    assert state(service) == before


@pytest.mark.parametrize("option", ["--continue", "--abort"])
def test_without_an_update_there_is_nothing_to_finish(service: Path, option: str) -> None:
    ended = marty(service, "update", option, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, "no-update")


def test_an_answer_can_be_changed(service: Path) -> None:
    ended = marty(service, "update", "--data", "port=9090", "--json")
    assert ended.code == 0, ended.err
    assert (service / "port.md").read_text() == "9090\n"
    commit(service, "Update")
    ended = marty(service, "update", "--data", "port=9191", "--json")
    assert (ended.code, ended.json["up_to_date"]) == (0, False)
    assert (service / "port.md").read_text() == "9191\n"


def test_wrong_usage_has_its_own_code(service: Path) -> None:
    assert marty(service, "update", "--data", "port").code == 2
    assert marty(service, "update", "--continue", "--abort").code == 2
    assert marty(service, "update", "--nothing").code == 2
