"""`marty doctor` names what is in the way of an update, and what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.updates.history import git
from tests.updates.small import LINES, commit, make_template, marty, state, write

ANSWERS = ".copier-answers.yml"


def findings(service: Path, **variables: str) -> dict[str, str]:
    """Return the remedy of each finding."""
    before = state(service)
    ended = marty(service, "doctor", "--json", **variables)
    assert state(service) == before
    document: dict[str, Any] = ended.json
    assert ended.code == (1 if document["findings"] else 0)
    return {each["code"]: each["remedy"] for each in document["findings"]}


def change(service: Path, old: str, new: str) -> None:
    """Edit the answers by hand, and commit that."""
    text = (service / ANSWERS).read_text()
    assert old in text
    (service / ANSWERS).write_text(text.replace(old, new))
    commit(service, "Edit the answers")


def test_nothing_is_in_the_way_of_a_healthy_service(service: Path) -> None:
    ended = marty(service, "doctor", "--json")
    seen = ended.json
    assert (ended.code, seen["findings"]) == (0, []), ended.out
    assert (seen["version"], seen["latest"], seen["behind"]) == ("v1.0.0", "v2.0.0", 1)


def test_an_update_that_is_not_committed_does_not_count_yet(service: Path) -> None:
    assert marty(service, "update").code == 0
    seen = marty(service, "doctor", "--json").json
    assert (seen["version"], seen["latest"], seen["behind"]) == ("v1.0.0", "v2.0.0", 1)


def test_an_answer_edited_by_hand_is_seen(service: Path) -> None:
    change(service, "port: 8000", "port: 9000")
    assert "--data port=" in findings(service)["answers-edited"]


def test_an_answer_that_no_question_has_is_seen(service: Path) -> None:
    change(service, "port: 8000", "port: 8000\nprot: 9000")
    assert "--data prot=" in findings(service)["answers-edited"]


def test_an_answer_that_the_template_refuses_is_seen(service: Path) -> None:
    change(service, "port: 8000", "port: many")
    assert findings(service)


def test_an_answer_changed_by_an_update_is_no_edit(service: Path) -> None:
    assert marty(service, "update", "--data", "port=9000").code == 0
    commit(service, "Update")
    assert findings(service) == {}
    assert marty(service, "update", "--data", "port=9001").code == 0
    commit(service, "Another port")
    assert findings(service) == {}


def test_the_template_at_a_new_address_is_no_edit(service: Path, small_template: Path, tmp_path: Path) -> None:
    shutil.copytree(small_template, tmp_path / "moved")
    change(service, str(small_template), str(tmp_path / "moved"))
    assert findings(service) == {}


def left_behind(service: Path) -> None:
    write(service, {"text.md": LINES.replace("line 2\n", "line deux\n")})
    commit(service, "Edit")
    marty(service, "update")
    commit(service, "Commit with markers")


def rejected(service: Path) -> None:
    write(service, {"text.md.rej": "@@ -1 +1 @@\n"})
    commit(service, "Commit a rejected hunk")


def under_way(service: Path) -> None:
    marty(service, "update")


def relative(service: Path) -> None:
    source = next(line for line in (service / ANSWERS).read_text().splitlines() if line.startswith("_src_path"))
    change(service, source, "_src_path: ../template")


def ill_fitting(service: Path) -> None:
    project = '[project]\nname = "orders"\nversion = "1"\ndependencies = ["marty-lib[ops]>=2.3,<3"]\n'
    write(service, {"pyproject.toml": project})
    commit(service, "Require another library")


SICK: dict[str, tuple[Callable[[Path], None], str]] = {
    "leftovers": (left_behind, "remove markers"),
    "leftovers, rejected": (rejected, "*.rej"),
    "unfinished": (under_way, "--abort"),
    "relative-source": (relative, "_src_path"),
    "library-version": (ill_fitting, "marty-lib>=1.0,<2"),
    "dirty": (lambda service: write(service, {"own.txt": "mine\n"}), "Commit or stash"),
    "answers-missing": (lambda service: (service / ANSWERS).unlink(), "git checkout"),
    "answers-corrupt": (lambda service: write(service, {ANSWERS: "a: [\n"}), "git checkout"),
    "unknown-version": (lambda service: change(service, "v1.0.0", "v9.0.0"), "git fetch --tags"),
    "unreachable": (lambda service: change(service, "_src_path: /", "_src_path: /not/there/"), "_src_path"),
}


@pytest.mark.parametrize("case", SICK)
def test_a_finding_has_its_remedy(service: Path, case: str) -> None:
    damage, remedy = SICK[case]
    damage(service)
    assert remedy in findings(service)[case.partition(",")[0]]


def test_a_folder_in_no_repository(service: Path) -> None:
    shutil.rmtree(service / ".git")
    ended = marty(service, "doctor", "--json")
    assert (ended.code, [each["code"] for each in ended.json["findings"]]) == (1, ["not-a-repository"])


def test_a_shallow_clone_and_a_submodule_are_told(service: Path, tmp_path: Path) -> None:
    write(service, {"own.txt": "mine\n"})
    commit(service, "Own")
    git(tmp_path, "clone", "--quiet", "--depth=1", service.as_uri(), "shallow")
    assert "--unshallow" in findings(tmp_path / "shallow")["shallow"]
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(service), "orders")
    commit(outer, "Submodule")
    ended = marty(outer / "orders", "doctor", "--json")
    assert [each["code"] for each in ended.json["findings"]] == ["submodule"]


def test_a_template_that_needs_a_newer_copier(tmp_path: Path, service: Path) -> None:
    template = make_template(tmp_path / "template")
    settings = template / "copier.yml"
    settings.write_text('_min_copier_version: "9999.0.0"\n' + settings.read_text())
    commit(template, "3.0.0")
    git(template, "tag", "v3.0.0")
    source = next(line for line in (service / ANSWERS).read_text().splitlines() if line.startswith("_src_path"))
    change(service, source, f"_src_path: {template}")
    assert "--upgrade-package copier" in findings(service)["copier-too-old"]


def test_without_trust_no_code_of_the_template_runs(service: Path, tmp_path: Path) -> None:
    template = make_template(tmp_path / "template")
    ran = tmp_path / "ran"
    (template / "extension.py").write_text(f"open({str(ran)!r}, 'w')\n")
    settings = template / "copier.yml"
    loader = "_jinja_extensions: [copier_template_extensions.TemplateExtensionLoader, extension.py:Nothing]\n"
    settings.write_text(loader + settings.read_text())
    commit(template, "1.1.0")
    git(template, "tag", "v1.1.0")
    change(service, "_commit: v1.0.0", "_commit: v1.1.0")
    source = next(line for line in (service / ANSWERS).read_text().splitlines() if line.startswith("_src_path"))
    change(service, source, f"_src_path: {template}")
    assert "--trust" in findings(service, MARTY_TRUST="0")["untrusted"]
    assert not ran.exists()
