"""`marty preview` and `marty update` on a small template: what they show, bring in and take back."""

from __future__ import annotations

import shutil
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


def next_release(service: Path, template: Path, files: dict[str, bytes | None]) -> None:
    """Take a release of a copy of the template, then release other contents there; None is a file that it drops."""
    answers = service / ".copier-answers.yml"
    old = next(line for line in answers.read_text().splitlines() if line.startswith("_src_path"))
    shutil.copytree(old.partition(": ")[2], template)
    (template / "template/logo.bin").write_bytes(bytes(range(256)))
    commit(template, "2.1.0")
    git(template, "tag", "v2.1.0")
    edit(service, {answers.name: answers.read_text().replace(old, f"_src_path: {template}")})
    assert marty(service, "update").code == 0
    commit(service, "Update")
    for name, text in files.items():
        path = template / "template" / name
        path.unlink() if text is None else path.write_bytes(text)
    commit(template, "3.0.0")
    git(template, "tag", "v3.0.0")


def test_an_edit_of_a_binary_file_is_a_conflict_and_stays(service: Path, tmp_path: Path) -> None:
    next_release(service, tmp_path / "template", {"logo.bin": bytes(range(255, -1, -1))})
    (service / "logo.bin").write_bytes(b"\0mine")
    commit(service, "Our logo")
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["conflicts"]) == (1, ["logo.bin"])
    assert (service / "logo.bin").read_bytes() == b"\0mine"
    assert len(git(service, "ls-files", "--unmerged").splitlines()) == 3
    assert git(service, "rev-parse", ":3:logo.bin") == git(tmp_path / "template", "rev-parse", "HEAD:template/logo.bin")
    assert marty(service, "update", "--abort").code == 0
    assert git(service, "status", "--porcelain") == ""


def test_an_edited_file_that_the_template_drops_stays(service: Path, tmp_path: Path) -> None:
    next_release(service, tmp_path / "template", {"text.md": None, "code/more.py": None})
    edit(service, {"text.md": MINE})
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["conflicts"]) == (0, [])
    assert (service / "text.md").read_text() == MINE
    assert not (service / "code/more.py").exists()
    assert ended.json["notes"] == ["text.md: the template has dropped it; it stays, for you have edited it"]


def test_an_edit_that_the_template_makes_too_is_no_conflict(service: Path, tmp_path: Path) -> None:
    new = LINES.replace("line 2\n", "line two\n").replace("line 9\n", "line nine\n")
    next_release(service, tmp_path / "template", {"text.md": new.replace("line 15\n", "line fifteen\n").encode()})
    edit(service, {"text.md": new})
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["notes"]) == (0, [])
    assert (service / "text.md").read_text() == new.replace("line 15\n", "line fifteen\n")


def test_a_file_that_the_owner_has_made_a_link_stays_one(service: Path, tmp_path: Path) -> None:
    next_release(service, tmp_path / "template", {"text.md": LINES.replace("line 3\n", "line three\n").encode()})
    edit(service, {"own.md": "own\n"})
    (service / "text.md").unlink()
    (service / "text.md").symlink_to("own.md")
    commit(service, "Link")
    marty(service, "update")
    assert (service / "text.md").readlink() == Path("own.md")
    assert (service / "own.md").read_text() == "own\n"
