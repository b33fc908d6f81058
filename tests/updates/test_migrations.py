"""What releases declare, done by `copier update` to what owners did: renames, drops, answers, keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from migrations.releases import Answer, Declaration, Rename, between
from tests.updates.history import git
from tests.updates.made_template import Template, commit, tree, update

LINES = "".join(f"line {number}\n" for number in range(1, 12))
THEIRS = LINES.replace("line 2\n", "line 2 of theirs\n")
OURS = LINES.replace("line 10\n", "line 10 of ours\n")
BOTH = THEIRS.replace("line 10\n", "line 10 of ours\n")
BINARY = bytes(range(256))
RENAMES = (
    "Rename('old', 'new')",
    "Rename('there.txt', 'taken.txt')",
    "Rename('src/{package}/a.py', 'src/{package}/b.py')",
)
PACKAGE = "src/{{service_name.replace('-', '_')}}"


def windows(text: str) -> str:
    return text.replace("\n", "\r\n")


def named(name: str) -> str:
    """Give each file a text of its own: Git must not take one for another."""
    return "".join(f"{name} {number}\n" for number in range(40))


class Updated(NamedTuple):
    """A service after `copier update`, and what that said."""

    service: Path
    said: str

    def text(self, name: str) -> str:
        return (self.service / name).read_bytes().decode()

    def unmerged(self) -> set[str]:
        return set(git(self.service, "diff", "--name-only", "--diff-filter=U").split())


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Updated:
    """One update over two releases with all that a release can do to files, and an owner who did as much."""
    folder = tmp_path_factory.mktemp("files")
    template = Template(folder / "template")
    same = ("merged", "clash", "untouched", "deleted", "moved", "windows", "script")
    old = {f"old/{name}.txt": named(name) + LINES for name in same} | {"old/image.bin": BINARY}
    plain = {f"{name}.txt": named(name) + LINES for name in ("there", "page", "crlf", "dropped", "dropped-edited")}
    template.release("1.0.0", old | plain | {f"{PACKAGE}/a.py": LINES, "free.txt": named("free") + LINES})
    gone = dict.fromkeys((*old, "there.txt", "dropped.txt", "dropped-edited.txt", f"{PACKAGE}/a.py"))
    new = {f"new/{name}.txt": named(name) + THEIRS for name in same} | {"new/image.bin": BINARY[::-1]}
    more = {"taken.txt": named("there") + THEIRS, f"{PACKAGE}/b.py": THEIRS}
    changed = {f"{name}.txt": named(name) + THEIRS for name in ("page", "crlf")}
    drops = ("Drop('dropped.txt')", "Drop('dropped-edited.txt')")

    service = template.render(folder / "service", "1.0.0")
    template.release("2.0.0", gone | new | more | changed, *RENAMES, *drops)
    work = {
        "old/merged.txt": named("merged") + OURS,
        "old/clash.txt": named("clash") + LINES.replace("line 2\n", "line 2 of ours\n"),
        "old/image.bin": BINARY + BINARY,
        "old/deleted.txt": None,
        "old/moved.txt": None,
        "own/moved.txt": named("moved") + OURS,
        "old/windows.txt": windows(named("windows") + OURS),
        "old/ours.txt": "ours\n",
        "there.txt": named("there") + OURS,
        "taken.txt": "taken by us\n",
        "page.txt": None,
        "our-page.txt": named("page") + OURS,
        "crlf.txt": windows(named("crlf") + OURS),
        "dropped-edited.txt": named("dropped-edited") + OURS,
        "src/order_service/a.py": OURS,
    }
    (service / "old/script.txt").chmod(0o755)
    commit(service, work)
    return Updated(service, update(service))


def test_edits_in_a_renamed_file_are_merged(updated: Updated) -> None:
    assert updated.text("new/merged.txt") == named("merged") + BOTH
    assert updated.text("src/order_service/b.py") == BOTH
    assert not (updated.service / "old").exists()


def test_an_untouched_file_is_the_new_one(updated: Updated) -> None:
    assert updated.text("new/untouched.txt") == named("untouched") + THEIRS


def test_where_both_changed_the_same_line_both_texts_are_there(updated: Updated) -> None:
    text = updated.text("new/clash.txt")
    assert "<<<<<<< before updating\nline 2 of ours\n" in text
    assert "line 2 of theirs\n>>>>>>> after updating" in text
    assert "conflict in new/clash.txt: solve it by hand" in updated.said


def test_only_real_conflicts_are_unmerged(updated: Updated) -> None:
    assert updated.unmerged() == {"new/clash.txt", "new/image.bin", "taken.txt"}


def test_a_binary_file_that_both_changed_stays_the_owners_and_is_a_conflict(updated: Updated) -> None:
    assert (updated.service / "new/image.bin").read_bytes() == BINARY + BINARY
    assert "conflict in new/image.bin" in updated.said


def test_a_deleted_file_stays_deleted(updated: Updated) -> None:
    assert not (updated.service / "new/deleted.txt").exists()


def test_what_is_new_follows_the_owner_who_renamed_a_file(updated: Updated) -> None:
    assert updated.text("our-page.txt") == named("page") + BOTH
    assert updated.text("own/moved.txt") == named("moved") + BOTH
    assert not [name for name in ("page.txt", "old/moved.txt", "new/moved.txt") if (updated.service / name).exists()]


def test_line_ends_of_windows_stay_and_are_no_conflict(updated: Updated) -> None:
    assert updated.text("crlf.txt") == windows(named("crlf") + BOTH)
    assert updated.text("new/windows.txt") == windows(named("windows") + BOTH)


def test_the_executable_bit_moves_along(updated: Updated) -> None:
    assert os.access(updated.service / "new/script.txt", os.X_OK)
    assert not os.access(updated.service / "new/merged.txt", os.X_OK)


def test_an_owners_own_file_in_a_renamed_folder_moves_along(updated: Updated) -> None:
    assert updated.text("new/ours.txt") == "ours\n"


def test_an_owners_file_is_not_overwritten_by_a_renamed_one(updated: Updated) -> None:
    assert "taken by us\n" in updated.text("taken.txt")
    assert updated.text("there.txt") == named("there") + OURS
    assert "taken.txt is yours already: merge there.txt into it by hand" in updated.said


def test_a_dropped_file_stays_where_it_has_edits_and_the_update_says_so(updated: Updated) -> None:
    assert not (updated.service / "dropped.txt").exists()
    assert updated.text("dropped-edited.txt") == named("dropped-edited") + OURS
    assert "kept dropped-edited.txt" in updated.said
    assert "dropped.txt" not in updated.said.replace("kept dropped-edited.txt", "")


def test_a_second_run_does_no_harm(updated: Updated) -> None:
    def state() -> object:
        return tree(updated.service), git(updated.service, "ls-files", "--stage")

    before, template = state(), updated.service.parent / "template"
    versions = {"VERSION_FROM": "v1.0.0", "VERSION_TO": "v2.0.0"}
    versions |= {"VERSION_PEP440_FROM": "1.0.0", "VERSION_PEP440_TO": "2.0.0"}
    command = [sys.executable, str(template / "migrations/run.py"), "after", str(template), ".copier-answers.yml"]
    subprocess.run(command, cwd=updated.service, env=os.environ | versions, check=True)
    assert state() == before


def test_a_release_without_declarations_leaves_all_to_copier(tmp_path: Path) -> None:
    template = Template(tmp_path / "template")
    template.release("1.0.0", {"a.txt": LINES})
    service = commit(template.render(tmp_path / "service", "1.0.0"), {"a.txt": OURS})
    template.release("2.0.0", {"a.txt": THEIRS})
    update(service)
    assert (service / "a.txt").read_text() == BOTH


@pytest.mark.parametrize("history", ["a commit of its own", "one commit for all"])
def test_a_release_without_declarations_follows_the_owner_too(tmp_path: Path, history: str) -> None:
    template = Template(tmp_path / "template")
    template.release("1.0.0", {"a.txt": LINES})
    service = commit(template.render(tmp_path / "service", "1.0.0"), {"a.txt": None, "own/b.txt": OURS})
    if history == "one commit for all":
        git(service, "update-ref", "HEAD", git(service, "commit-tree", "-m", "All", "HEAD^{tree}").strip())
    template.release("2.0.0", {"a.txt": THEIRS})
    update(service)
    assert (service / "own/b.txt").read_text() == BOTH
    assert not (service / "a.txt").exists()


def test_a_service_below_the_top_of_its_repository_is_updated_alike(tmp_path: Path) -> None:
    template = Template(tmp_path / "template")
    template.release("1.0.0", {"old.txt": LINES, "clash.txt": LINES})
    top = tmp_path / "top"
    service = template.render(top / "services/orders", "1.0.0")
    (service / ".git").rename(top / ".git")
    commit(top, {"services/orders/old.txt": OURS, "services/orders/clash.txt": OURS, "old.txt": "not the service's\n"})
    template.release(
        "2.0.0",
        {
            "old.txt": None,
            "new.txt": THEIRS,
            "clash.txt": None,
            "clashes.txt": LINES.replace("line 10", "line 10 of theirs"),
        },
        "Rename('old.txt', 'new.txt')",
        "Rename('clash.txt', 'clashes.txt')",
    )
    update(service)
    assert (service / "new.txt").read_text() == BOTH
    assert git(top, "diff", "--name-only", "--diff-filter=U").split() == ["services/orders/clashes.txt"]
    assert (top / "old.txt").exists()


def test_a_service_that_is_renamed_keeps_the_edits_in_its_package(tmp_path: Path) -> None:
    template = Template(tmp_path / "template")
    template.release("1.0.0", {f"{PACKAGE}/a.py": LINES})
    service = template.render(tmp_path / "service", "1.0.0")
    commit(service, {"src/order_service/a.py": OURS, "src/order_service/ours.py": "ours\n"})
    update(service, "--data=service_name=parcel-service")
    assert (service / "src/parcel_service/a.py").read_text() == OURS
    assert (service / "src/parcel_service/ours.py").read_text() == "ours\n"
    assert not (service / "src/order_service").exists()


def test_a_template_that_is_cloned_from_afar_is_rendered_aside_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
    template = Template(tmp_path / "template")
    template.release("1.0.0", {"old.txt": LINES})
    service = template.render(tmp_path / "service", "1.0.0", url=f"git+file://{template.folder}")
    commit(service, {"old.txt": OURS})
    template.release("2.0.0", {"old.txt": None, "new.txt": THEIRS}, "Rename('old.txt', 'new.txt')")
    update(service)
    assert (service / "new.txt").read_text() == BOTH


def test_what_an_other_answer_removes_stays_where_it_has_edits(tmp_path: Path) -> None:
    template = Template(tmp_path / "template")
    template.questions["mesh"] = {"type": "str", "default": "istio"}
    template.release("1.0.0", {"{% if mesh == 'istio' %}istio.txt{% endif %}": LINES})
    service = commit(template.render(tmp_path / "service", "1.0.0"), {"istio.txt": OURS})
    assert "kept istio.txt" in update(service, "--data=mesh=none")
    assert (service / "istio.txt").read_text() == OURS


def test_answers_are_mapped_before_they_are_asked_again(tmp_path: Path) -> None:
    template = Template(tmp_path / "template")
    template.questions |= {
        "broker": {"type": "str", "default": "kafka", "choices": ["kafka", "nats"]},
        "registry": {"type": "str", "default": "example.com"},
        "port": {"type": "int", "default": 80},
    }
    template.release("1.0.0", {"a.txt": LINES})
    service = template.render(tmp_path / "service", "1.0.0", broker="nats", registry="é.example.org", port=81)
    template.questions["broker"]["choices"] = ["kafka", "redis"]
    template.questions["image_registry"] = template.questions.pop("registry")
    template.questions["port"]["validator"] = "{% if port < 1024 %}too low{% endif %}"
    template.release(
        "2.0.0",
        {},
        "Answer('broker', {'nats': 'redis'})",
        "Answer('registry', to='image_registry')",
        "Answer('port', lambda port: port + 8000)",
    )
    update(service)
    answers = yaml.safe_load((service / ".copier-answers.yml").read_text())
    assert (answers["broker"], answers["image_registry"], answers["port"]) == ("redis", "é.example.org", 8081)
    assert "registry" not in answers


def test_only_the_releases_between_two_versions_count_in_their_order() -> None:
    table: dict[str, list[Declaration]] = {"0.10.0": [Rename("b", "c")], "0.9.0": [Answer("x")], "1.0.0": []}
    assert between("0.8.0", "0.10.0", table) == [table["0.9.0"][0], Rename("b", "c")]
    assert not between("0.10.0", "0.10.0", table)
