"""`marty fleet update`, interrupted in every way and gone on with; and the pull requests that it opens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from marty_lib._cli_fleet_journal import Journal, Result

from .fleet_kit import Fleet, commit, git, make_repository, make_service, make_template

BRANCH = "marty/update-v2.0.0"
NAMES = ("carts", "mails", "orders", "parcels", "users")
PASS = 2  # services whose tests do not wait
DEADLINE = 120.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small template."""
    return make_template(tmp_path_factory.mktemp("template") / "marty")


@pytest.fixture
def fleet(tmp_path: Path, template: Path) -> Fleet:
    """Five services in repositories of their own, and two in one."""
    fleet = Fleet(tmp_path)
    for name in NAMES:
        make_repository(template, fleet.services / name)
    for name in ("a", "b"):
        make_service(template, fleet.services / "shop" / name)
    git(fleet.services / "shop", "init", "--quiet", "--initial-branch=main")
    commit(fleet.services / "shop", "Render")
    return fleet


class Gate:
    """Tests of services, the first of which pass; the others wait until they are let through."""

    def __init__(self, folder: Path) -> None:
        self.seen, self.pipe = folder / "seen", folder / "pipe"
        self.seen.touch()
        os.mkfifo(self.pipe)
        say = f"sed -n 's/^service_name: //p' .copier-answers.yml >>{self.seen}"
        self.command = f"{say}; test $(wc -l <{self.seen}) -le {PASS} || test -e {self.pipe}.open || cat {self.pipe}"

    def names(self) -> list[str]:
        """Return whose tests have begun."""
        return self.seen.read_text().split()

    def open(self) -> None:
        """Let everything through, what waits too."""
        Path(f"{self.pipe}.open").touch()
        os.close(os.open(self.pipe, os.O_RDWR))


def until(condition: Any, process: subprocess.Popen[str]) -> None:
    """Wait until something is so, as long as a process runs."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def interrupted(fleet: Fleet, gate: Gate, number: int) -> Iterator[subprocess.Popen[str]]:
    """Start an update; once it is in its middle, send it a signal. Yield it when it has ended."""
    arguments = fleet.updating("--jobs", 2, "--test", gate.command)
    command = fleet.command(*arguments)
    with subprocess.Popen(command, env=fleet.environment, text=True, stderr=subprocess.PIPE) as process:
        until(lambda: len(gate.names()) == PASS + 2, process)
        process.send_signal(number)
        process.wait(DEADLINE)
        yield process


def repositories(fleet: Fleet) -> list[Path]:
    return [fleet.services / name for name in (*NAMES, "shop")]


def updated(repository: Path) -> bool:
    return bool(git(repository, "branch", "--list", BRANCH))


def assert_nothing_is_half(fleet: Fleet) -> None:
    """Every branch that is there is whole, and no owner's work tree has changed."""
    for repository in repositories(fleet):
        git(repository, "fsck", "--no-dangling")
        assert git(repository, "status", "--porcelain") == ""
        assert git(repository, "branch", "--show-current") == "main"
        for text in repository.rglob("text.txt"):
            assert text.read_text() == "one\n"
            if updated(repository):
                assert git(repository, "show", f"{BRANCH}:{text.relative_to(repository)}") == "two\ngreeting"


def go_on(fleet: Fleet, gate: Gate) -> list[str]:
    """Run the same command again; return whose tests have run in it."""
    before = len(gate.names())
    results = fleet.update("--jobs", 2, "--test", gate.command)
    assert {result["outcome"] for result in results.values()} == {"updated"}
    assert sorted(results) == sorted([*NAMES, "a", "b"])
    assert all(map(updated, repositories(fleet)))
    assert_nothing_is_half(fleet)
    for repository in repositories(fleet):
        assert len(git(repository, "worktree", "list").split("\n")) == 1
    assert not any((fleet.report / "work").iterdir())
    assert not (fleet.report / "journal.jsonl").exists()
    return gate.names()[before:]


def test_a_kill_in_the_middle_loses_nothing(fleet: Fleet) -> None:
    gate = Gate(fleet.home)
    with interrupted(fleet, gate, signal.SIGKILL) as process:
        assert process.returncode == -signal.SIGKILL
        assert_nothing_is_half(fleet)
        done, begun = gate.names()[:PASS], gate.names()[PASS:]
        assert all(updated(fleet.services / name) for name in done)
        gate.open()  # what the killed run has started ends by itself

        again = go_on(fleet, gate)
    assert not {*again} & {*done}, "what was done is not done again"
    assert {*again} >= {*begun}, "what was under way is"
    assert len(again) == len(NAMES) + 2 - PASS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_everything_and_can_be_gone_on_with(fleet: Fleet, number: int) -> None:
    gate = Gate(fleet.home)
    with interrupted(fleet, gate, number) as process:
        assert process.returncode == 130
        assert process.stderr
        assert "the same command goes on from here" in process.stderr.read()
        assert_nothing_is_half(fleet)
        assert not any((fleet.report / "work").iterdir())
        waiting = [each for each in psutil.process_iter(["cmdline"]) if str(gate.pipe) in (each.info["cmdline"] or ())]
        assert not waiting
        done = gate.names()[:PASS]
        gate.open()

        assert not {*go_on(fleet, gate)} & {*done}


def test_an_interrupted_run_is_not_mixed_with_another(fleet: Fleet) -> None:
    gate = Gate(fleet.home)
    with interrupted(fleet, gate, signal.SIGINT):
        ended = fleet.run(*fleet.updating("--no-test", "--json"), code=3)
        error = json.loads(ended.stdout)["error"]

        assert error["code"] == "other-options"
        assert "test" in error["message"]
        assert "--restart" in error["remedy"]
        results = fleet.update("--no-test", "--restart")
        assert {result["outcome"] for result in results.values()} == {"updated", "branch-exists"}


def test_what_was_done_for_an_older_commit_is_done_again(fleet: Fleet) -> None:
    gate = Gate(fleet.home)
    with interrupted(fleet, gate, signal.SIGINT):
        first = gate.names()[0]
        shop = fleet.services / "shop"
        (shop / "new.txt").touch()
        commit(shop, "Go on working")
        gate.open()
        fleet.update("--jobs", 2, "--test", gate.command)

        assert git(shop, "rev-parse", f"{BRANCH}~2") == git(shop, "rev-parse", "main")
        assert first in gate.names()


def test_a_line_that_was_not_written_to_its_end_is_no_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", {"to": None})
    journal.add(Result("/orders", "orders", "fastapi", "v1.0.0", "v2.0.0", "updated"))
    journal.close(done=False)
    with (tmp_path / "journal").open("a") as file:
        file.write('{"folder": "/users", "na')

    again = Journal(tmp_path / "journal", {"to": None})
    again.add(Result("/carts", "carts", "fastapi", "v1.0.0", "v2.0.0", "updated"))
    again.close(done=False)
    last = Journal(tmp_path / "journal", {"to": None})
    last.close(done=True)
    assert [*last.results] == ["/orders", "/carts"]
    assert not (tmp_path / "journal").exists()


# Pull requests ------------------------------------------------------------------------------------------------

GH = """\
#!/usr/bin/env python3
import json, os, sys
folder = os.environ["GH_CALLS"]
body = open(sys.argv[sys.argv.index("--body-file") + 1]).read() if "--body-file" in sys.argv else ""
call = {"arguments": sys.argv[1:], "folder": os.getcwd(), "body": body}
with open(os.path.join(folder, "calls"), "a") as file:
    file.write(json.dumps(call) + "\\n")
known = os.path.join(folder, os.path.basename(os.path.dirname(os.getcwd())))
if sys.argv[1:3] == ["pr", "list"]:
    print(json.dumps([{"url": open(known).read()}] if os.path.exists(known) else []))
elif os.environ.get("GH_FAILS"):
    sys.exit("no permission")
else:
    open(known, "w").write("https://example.com/pull/1")
    print("Creating pull request\\nhttps://example.com/pull/1")
"""


@pytest.fixture
def gh(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for gh on the path, and a remote for each repository; the folder has its calls."""
    folder = fleet.home / "gh"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/gh").write_text(GH)
    (folder / "bin/gh").chmod(0o755)
    for repository in repositories(fleet):
        git(repository, "init", "--quiet", "--bare", str(fleet.home / "remotes" / repository.name))
        git(repository, "remote", "add", "origin", str(fleet.home / "remotes" / repository.name))
    fleet.environment |= {"PATH": f"{folder}/bin:{os.environ['PATH']}", "GH_CALLS": str(folder)}
    return folder


def created(gh: Path) -> dict[str, dict[str, Any]]:
    """Return the calls that create pull requests, by repository."""
    calls = [json.loads(line) for line in (gh / "calls").read_text().splitlines()]
    return {Path(call["folder"]).parent.name: call for call in calls if call["arguments"][:2] == ["pr", "create"]}


def test_each_repository_gets_a_pull_request(fleet: Fleet, gh: Path) -> None:
    (fleet.services / "mails/text.txt").write_text("ours\n")
    commit(fleet.services / "mails", "Ours")
    results = fleet.update("--pr", "--test", "case $PWD in */orders-*) exit 1; esac", code=1)

    calls = created(gh)
    assert sorted(calls) == ["carts", "orders", "parcels", "shop", "users"], "none where there are conflicts"
    carts = calls["carts"]["arguments"]
    assert carts[carts.index("--head") + 1] == BRANCH
    assert carts[carts.index("--base") + 1] == "main"
    assert carts[carts.index("--title") + 1] == "Update carts to the template's v2.0.0"
    assert "- A greeting." in calls["carts"]["body"]
    assert "Update 2 services to v2.0.0" in calls["shop"]["arguments"]
    assert [name for name, call in calls.items() if "--draft" in call["arguments"]] == ["orders"]
    assert results["a"]["pull_request"] == "https://example.com/pull/1"
    pushed = git(fleet.home / "remotes/shop", "rev-parse", BRANCH)
    assert pushed == git(fleet.services / "shop", "rev-parse", BRANCH)


def test_a_pull_request_is_not_opened_twice(fleet: Fleet, gh: Path) -> None:
    fleet.update("--pr", "--no-test")
    (gh / "calls").unlink()
    results = fleet.update("--pr", "--no-test")

    assert created(gh) == {}
    assert {result["outcome"] for result in results.values()} == {"branch-exists"}
    assert results["carts"]["pull_request"] == "https://example.com/pull/1"


def test_a_clone_knows_what_is_at_the_remote(fleet: Fleet, gh: Path) -> None:
    fleet.update("--pr", "--no-test")
    for repository in repositories(fleet):
        git(repository, "checkout", "--quiet", "--detach")
        git(repository, "branch", "--delete", "--force", BRANCH)
    (gh / "orders").unlink()  # its pull request was not opened
    results = fleet.update("--pr", "--no-test")

    assert {result["outcome"] for result in results.values()} == {"branch-exists"}
    assert not any(map(updated, repositories(fleet)))
    assert results["orders"]["pull_request"]
    orders = [json.loads(line) for line in (gh / "calls").read_text().splitlines()][-3:]
    assert any("- A greeting." in call["body"] and "--base" not in call["arguments"] for call in orders)


def test_a_pull_request_that_fails_can_be_tried_again(fleet: Fleet, gh: Path) -> None:
    results = fleet.update("--pr", "--no-test", code=1, GH_FAILS="1")
    assert "no permission" in results["carts"]["message"]
    assert all(map(updated, repositories(fleet)))

    results = fleet.update("--pr", "--no-test")
    assert results["carts"]["pull_request"] == "https://example.com/pull/1"


@pytest.mark.parametrize("lack", ["gh", "remote"])
def test_what_pull_requests_need_is_asked_for_first(fleet: Fleet, gh: Path, lack: str) -> None:
    if lack == "gh":
        (gh / "bin/gh").unlink()
    else:
        git(fleet.services / "orders", "remote", "remove", "origin")
    error = json.loads(fleet.run(*fleet.updating("--pr", "--json"), code=3).stdout)["error"]

    assert error["code"] == f"{'gh' if lack == 'gh' else 'no'}-{'missing' if lack == 'gh' else 'remote'}"
    assert not any(map(updated, repositories(fleet)))
