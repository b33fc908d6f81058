"""`marty fleet`: what it finds, what it says of it, and what an update leaves in the owners' repositories."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from copier._vcs import get_repo
from marty_lib._cli_fleet_find import Service
from marty_lib._cli_fleet_sources import address
from marty_lib._cli_fleet_update import Task, message

from .fleet_kit import Fleet, commit, git, make_repository, make_service, make_template

BRANCH = "marty/update-v2.0.0"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small template."""
    return make_template(tmp_path_factory.mktemp("template") / "marty")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet without services."""
    fleet = Fleet(tmp_path)
    fleet.services.mkdir()
    return fleet


@pytest.fixture
def orders(fleet: Fleet, template: Path) -> Path:
    """A service of the fleet, two releases behind."""
    return make_repository(template, fleet.services / "orders")


@pytest.fixture
def monorepo(fleet: Fleet, template: Path) -> Path:
    """A repository of three services; the owner of the second has changed what the template will change."""
    folder = fleet.services / "shop"
    for name in ("carts", "orders", "users"):
        make_service(template, folder / "services" / name)
    (folder / "services/orders/text.txt").write_text("ours\n")
    (folder / ".gitignore").write_text("*.tmp\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "Render")
    return folder


def owners(repository: Path) -> tuple[str, ...]:
    """What of a repository an update must leave as it is."""
    asked = (
        ("status", "--porcelain", "--branch"),
        ("ls-files", "--stage"),
        ("worktree", "list"),
        ("stash", "list"),
        ("log", "--format=%H", "HEAD"),
    )
    return tuple(git(repository, *question) for question in asked)


def branches(repository: Path) -> list[str]:
    return git(repository, "branch", "--format=%(refname:short)").split("\n")


def codes(row: dict[str, Any]) -> list[str]:
    return sorted(finding["code"] for finding in row["health"])


def changed(repository: Path, commit: str) -> list[str]:
    return git(repository, "show", "--format=", "--name-only", commit).split("\n")


# Status -------------------------------------------------------------------------------------------------------


def test_status_says_version_releases_behind_and_health(fleet: Fleet, template: Path, orders: Path) -> None:
    make_repository(template, fleet.services / "users", "v1.1.0", "grpc")
    (fleet.services / "users/new.txt").write_text("not committed")
    make_service(template, fleet.services / "carts", "v2.0.0")

    document = json.loads(fleet.run("status", fleet.services, "--json", code=1).stdout)
    rows = {row["name"]: row for row in document["services"]}

    assert (document["command"], document["exit_code"]) == ("fleet status", 1)
    assert rows["orders"] == {
        "folder": str(orders),
        "name": "orders",
        "kind": "fastapi",
        "version": "v1.0.0",
        "newest": "v2.0.0",
        "behind": 2,
        "health": [],
    }
    assert (rows["users"]["kind"], rows["users"]["behind"]) == ("grpc", 1)
    assert codes(rows["users"]) == ["dirty"]
    assert rows["carts"]["behind"] == 0
    assert codes(rows["carts"]) == ["not-a-repository"]


def test_status_is_a_table_for_people(fleet: Fleet, orders: Path) -> None:
    header, row = fleet.run("status", fleet.services).stdout.splitlines()

    assert header.split() == ["service", "kind", "version", "newest", "behind", "health"]
    assert row.split() == ["orders", "fastapi", "v1.0.0", "v2.0.0", "2", "good"]


def test_a_source_is_asked_for_its_releases_once(fleet: Fleet, template: Path) -> None:
    for name in ("carts", "orders", "users"):
        make_repository(template, fleet.services / name)
    trace = fleet.home / "trace"
    fleet.run("status", fleet.services, GIT_TRACE=str(trace))

    asked = [line for line in trace.read_text().splitlines() if "built-in: git ls-remote" in line]
    assert len(asked) == 1


def test_only_marty_s_own_services_are_found(fleet: Fleet, template: Path, orders: Path) -> None:
    other = fleet.services / "other"
    other.mkdir()
    (other / ".copier-answers.yml").write_text("_src_path: gh:somebody/else\nname: other\n")
    make_service(template, orders / ".venv/vendored")
    make_service(template, orders / "environment/vendored")
    (orders / "environment/pyvenv.cfg").touch()
    broken = make_repository(template, fleet.services / "broken")
    (broken / ".copier-answers.yml").write_text("service_name: broken\nservice_kind: [\n")

    rows = json.loads(fleet.run("status", fleet.services, "--json", code=1).stdout)["services"]

    assert [row["name"] for row in rows] == ["broken", "orders"]
    assert codes(rows[0]) == ["answers-corrupt", "dirty"]


def test_a_service_in_two_work_trees_counts_once(fleet: Fleet, orders: Path) -> None:
    git(orders, "worktree", "add", "--quiet", "--detach", str(fleet.services / "second"))

    rows = json.loads(fleet.run("status", fleet.services, "--json").stdout)["services"]

    assert [row["folder"] for row in rows] == [str(orders)]


@pytest.mark.parametrize(("path", "code"), [("nothing", "no-folder"), (".", "no-services")])
def test_a_path_without_services_is_an_error(fleet: Fleet, path: str, code: str) -> None:
    document = json.loads(fleet.run("status", fleet.services / path, "--json", code=3).stdout)

    assert document["error"]["code"] == code
    assert document["error"]["remedy"]


def test_a_source_that_does_not_answer_is_said_of_each_of_its_services(fleet: Fleet, orders: Path) -> None:
    answers = orders / ".copier-answers.yml"
    lines = [line for line in answers.read_text().splitlines() if not line.startswith("_src_path")]
    answers.write_text("\n".join([*lines, f"_src_path: {fleet.home}/gone"]) + "\n")
    commit(orders, "Move")

    row = json.loads(fleet.run("status", fleet.services, "--json", code=1).stdout)["services"][0]
    updated = fleet.update("--no-test", code=1)

    assert row["behind"] is None
    assert codes(row) == ["unreachable"]
    assert "gone" in row["health"][0]["message"]
    assert updated["orders"]["outcome"] == "failed"
    assert "gone" in updated["orders"]["message"]


# Update -------------------------------------------------------------------------------------------------------


def test_an_update_is_a_branch_and_nothing_else(fleet: Fleet, orders: Path) -> None:
    (orders / "README.md").write_text("not committed")
    (orders / "own.txt").write_text("not even added")
    before = owners(orders)
    result = fleet.update("--test", "grep -q two text.txt && test ! -e own.txt")["orders"]

    assert result["outcome"] == "updated"
    assert (result["old"], result["new"], result["branch"]) == ("v1.0.0", "v2.0.0", BRANCH)
    assert owners(orders) == before
    assert (orders / "README.md").read_text() == "not committed"
    assert branches(orders) == ["main", BRANCH]
    assert git(orders, "rev-parse", f"{BRANCH}^") == git(orders, "rev-parse", "main")
    assert changed(orders, BRANCH) == [".copier-answers.yml", "text.txt"]


def test_the_commit_says_what_the_releases_bring(fleet: Fleet, orders: Path) -> None:
    fleet.update("--no-test")

    message = git(orders, "show", "--no-patch", "--format=%B", BRANCH)
    assert message.startswith("Update orders to the template's v2.0.0\n\n")
    assert "2.0.0 (2026-03-01)\n\n- **What you do**: nothing." in message
    assert "- A greeting." in message
    assert "The first release" not in message
    assert message.endswith("Marty-From: v1.0.0\nMarty-To: v2.0.0")


def test_the_commit_says_what_the_update_has_noted(tmp_path: Path) -> None:
    task = Task(Service(tmp_path, "orders", "fastapi", "v1.0.0", ""), "v2.0.0", BRANCH)
    said = {"from": "v1.0.0", "to": "v2.0.0", "changelog": "## 2.0.0", "notes": ["old.py is new.py now"]}

    assert "2.0.0\n\nWhat the update has noted:\n\n- old.py is new.py now\n\nMarty-From" in message(task, said)


def test_a_release_and_a_branch_can_be_named(fleet: Fleet, orders: Path) -> None:
    result = fleet.update("--no-test", "--to", "1.1.0", "--branch", "bot/{version}-template")["orders"]

    assert (result["new"], result["branch"]) == ("v1.1.0", "bot/v1.1.0-template")
    assert git(orders, "show", "bot/v1.1.0-template:text.txt") == "one\ngreeting"


@pytest.mark.parametrize(("option", "code"), [("--branch=a..b", "bad-branch"), ("--report=/dev/null", "no-report")])
def test_what_cannot_be_done_is_refused_before_anything_is(fleet: Fleet, orders: Path, option: str, code: str) -> None:
    ended = fleet.run("update", fleet.services, option, "--json", code=3)

    assert json.loads(ended.stdout)["error"]["code"] == code
    assert branches(orders) == ["main"]


def test_that_nobody_could_commit_is_said_first(fleet: Fleet, orders: Path) -> None:
    fleet.environment = {name: value for name, value in fleet.environment.items() if not name.startswith("GIT_")}
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    git(orders, "config", "user.useConfigOnly", "true")
    ended = fleet.run(*fleet.updating("--json"), code=3, **nobody)

    assert json.loads(ended.stdout)["error"]["code"] == "no-identity"
    assert branches(orders) == ["main"]


def test_what_is_away_of_an_owner_s_work_trees_is_not_forgotten(fleet: Fleet, orders: Path) -> None:
    away = fleet.home / "away"
    git(orders, "worktree", "add", "--quiet", "--detach", str(away))
    away.rename(fleet.home / "further-away")
    fleet.update("--no-test")

    assert str(away) in git(orders, "worktree", "list")


def test_a_service_that_is_up_to_date_is_left_alone(fleet: Fleet, template: Path) -> None:
    newest = make_repository(template, fleet.services / "orders", "v2.0.0")

    assert fleet.update("--test", "exit 1")["orders"]["outcome"] == "current"
    assert branches(newest) == ["main"]


def test_a_branch_that_is_there_is_left_alone(fleet: Fleet, orders: Path) -> None:
    git(orders, "branch", BRANCH)

    assert fleet.update("--no-test")["orders"]["outcome"] == "branch-exists"
    assert git(orders, "rev-parse", BRANCH) == git(orders, "rev-parse", "main")


def test_a_branch_that_is_only_at_the_remote_is_there_too(fleet: Fleet, orders: Path) -> None:
    git(orders, "update-ref", f"refs/remotes/origin/{BRANCH}", "main")

    assert fleet.update("--no-test")["orders"]["outcome"] == "branch-exists"
    assert branches(orders) == ["main"]


def test_conflicts_are_reported_and_leave_no_branch(fleet: Fleet, orders: Path) -> None:
    (orders / "text.txt").write_text("ours\n")
    commit(orders, "Ours")
    before = owners(orders)
    result = fleet.update("--test", "exit 1", code=1)["orders"]

    assert (result["outcome"], result["conflicts"], result["commit"]) == ("conflicts", ["text.txt"], "")
    assert owners(orders) == before
    assert branches(orders) == ["main"]
    page = (fleet.report / "report.md").read_text()
    assert "- `text.txt`" in page
    assert "`marty update --continue`" in page


def test_failing_tests_leave_a_branch_to_mend(fleet: Fleet, orders: Path) -> None:
    result = fleet.update("--test", "echo it is broken; exit 1", code=1)["orders"]

    assert result["outcome"] == "tests-failed"
    assert git(orders, "rev-parse", BRANCH) == result["commit"]
    assert "it is broken" in Path(result["log"]).read_text()
    assert "it is broken" in (fleet.report / "report.md").read_text()


def test_services_of_one_repository_get_a_commit_each_and_do_not_block_each_other(fleet: Fleet, monorepo: Path) -> None:
    before = owners(monorepo)
    results = fleet.update("--test", "test -e ../users/text.txt && touch made.tmp", code=1)

    outcomes = {name: result["outcome"] for name, result in results.items()}
    assert outcomes == {"carts": "updated", "orders": "conflicts", "users": "updated"}
    assert owners(monorepo) == before
    assert branches(monorepo) == ["main", BRANCH]
    made = git(monorepo, "log", "--reverse", "--format=%H", f"main..{BRANCH}").split()
    assert made == [results[name]["commit"] for name in ("carts", "users")]
    assert [changed(monorepo, each) for each in made] == [
        [f"services/{name}/.copier-answers.yml", f"services/{name}/text.txt"] for name in ("carts", "users")
    ]
    assert "Update users" in git(monorepo, "show", "--no-patch", "--format=%s", made[1])
    assert git(monorepo, "show", f"{BRANCH}:services/orders/text.txt") == "ours"


def test_locked_versions_follow_the_template(fleet: Fleet, orders: Path, tmp_path: Path) -> None:
    (orders / "uv.lock").write_text("old\n")
    commit(orders, "Lock")
    program(tmp_path / "bin/uv", '[ "$1" = lock ] && cat text.txt >uv.lock')
    fleet.update("--no-test", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")

    assert git(orders, "show", f"{BRANCH}:uv.lock") == "two\ngreeting"


def test_a_lock_may_need_what_is_beside_the_service(fleet: Fleet, monorepo: Path, tmp_path: Path) -> None:
    for name in ("carts", "users"):
        (monorepo / "services" / name / "uv.lock").write_text("old\n")
    commit(monorepo, "Lock")
    program(tmp_path / "bin/uv", "cat ../orders/text.txt text.txt >uv.lock")
    fleet.update("--no-test", code=1, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")

    for name in ("carts", "users"):
        assert git(monorepo, "show", f"{BRANCH}:services/{name}/uv.lock") == "ours\ntwo\ngreeting"


def test_a_service_without_a_commit_is_told_from_the_others(fleet: Fleet, template: Path, orders: Path) -> None:
    git(make_service(template, fleet.services / "users"), "init", "--quiet")
    results = fleet.update("--no-test", code=1)

    assert results["orders"]["outcome"] == "updated"
    assert results["users"]["outcome"] == "failed"
    assert "commit it" in results["users"]["message"]


def test_a_remote_source_is_cloned_once_and_read_from_there(fleet: Fleet, template: Path) -> None:
    for name in ("carts", "orders", "users"):
        service = make_repository(template, fleet.services / name)
        answers = service / ".copier-answers.yml"
        answers.write_text(answers.read_text().replace(str(template), f"git+file://{template}"))
        commit(service, "As from a server")
    trace = fleet.home / "trace"
    results = fleet.update("--no-test", GIT_TRACE=str(trace))

    assert {result["outcome"] for result in results.values()} == {"updated"}
    served = [line for line in trace.read_text().splitlines() if line.endswith(f"git upload-pack {template}")]
    assert len(served) == 2, "asked for its tags, and cloned"
    updated = git(fleet.services / "orders", "show", f"{BRANCH}:.copier-answers.yml")
    assert f"_src_path: git+file://{template}" in updated


@pytest.mark.parametrize(
    "spelled",
    [
        "gh:org/marty",
        "gh:/org/marty.git",
        "gl:org/marty",
        "https://github.com/org/marty",
        "https://gitlab.com/org/marty.git",
        "git+https://example.com/marty",
        "git@example.com:org/marty.git",
        "ssh://git@example.com/org/marty.git",
    ],
)
def test_an_address_is_what_copier_gives_to_git(spelled: str) -> None:
    assert address(spelled) == get_repo(spelled)


def test_without_a_terminal_progress_is_a_line_a_service(fleet: Fleet, monorepo: Path) -> None:
    said = fleet.run(*fleet.updating("--no-test"), code=1).stderr

    numbers = [line.split()[0] for line in said.splitlines() if line.startswith("[")]
    assert numbers == ["[1/3]", "[2/3]", "[3/3]"]
    assert "orders: conflicts (text.txt)" in said
    assert "3 services: 1 conflicts, 2 updated" in said


def test_on_a_terminal_progress_is_a_bar(fleet: Fleet, orders: Path) -> None:
    ours, theirs = pty.openpty()
    variables = fleet.environment | {"TERM": "xterm"}
    command = fleet.command(*fleet.updating("--no-test"))
    with subprocess.Popen(command, env=variables, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # a terminal's end is one
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
    assert process.returncode == 0

    assert b"Updating" in shown
    assert b"1/1" in shown


def test_two_runs_do_not_share_a_folder(fleet: Fleet, orders: Path) -> None:
    fleet.report.mkdir()
    lock = os.open(fleet.report, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ended = fleet.run(*fleet.updating("--json"), code=3)
    os.close(lock)

    assert json.loads(ended.stdout)["error"]["code"] == "running"
    assert branches(orders) == ["main"]


def program(path: Path, script: str) -> None:
    """Write a stand-in for a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
