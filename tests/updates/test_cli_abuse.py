"""What goes wrong around an update: a clear word, an exit code of its own, and the service as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.requirement import missing
from tests.updates.history import git
from tests.updates.small import LINES, commit, content, make_template, marty, start, state, write

ANSWERS = ".copier-answers.yml"
MINE = LINES.replace("line 2\n", "line deux\n")
BLOCKING_GIT = """\
#!/bin/sh
case " $* " in *" $BLOCK_AT "*)
  if [ ! -e "$BLOCK" ] && [ "$BLOCK_AT" != update-index -o -z "$GIT_INDEX_FILE" ]; then
    touch "$BLOCK"
    while [ ! -e "$BLOCK.go" ]; do sleep 0.02; done
  fi
esac
exec {git} "$@"
"""
# Each of git's commands that an update runs, in this order: template, copy, renders, Copier's merge, ours.
BEFORE = ["rev-parse", "commit-tree", "clone", "init", "apply", "write-tree", "pack-objects", "checkout-index"]


def answers_are(text: str) -> Callable[[Path], None]:
    """Return what replaces the answers file, and commits that."""

    def change(service: Path) -> None:
        (service / ANSWERS).write_text(text.format(template=Path(service / ANSWERS).read_text()))
        commit(service, "Change the answers")

    return change


def edited(old: str, new: str) -> Callable[[Path], None]:
    """Return what replaces a part of the answers file, and commits that."""

    def change(service: Path) -> None:
        text = (service / ANSWERS).read_text()
        assert old in text
        (service / ANSWERS).write_text(text.replace(old, new))
        commit(service, "Change the answers")

    return change


def without_answers(service: Path) -> None:
    (service / ANSWERS).unlink()
    commit(service, "Delete the answers")


def without_repository(service: Path) -> None:
    shutil.rmtree(service / ".git")


def without_commit(service: Path) -> None:
    shutil.rmtree(service / ".git")
    git(service, "init", "--quiet")


def uncommitted(service: Path) -> None:
    write(service, {"text.md": MINE})


def untracked(service: Path) -> None:
    write(service, {"new.txt": "new\n"})


def moved_template(service: Path) -> None:
    edited("small", "elsewhere")(service)


CANNOT = {
    "answers deleted": (without_answers, "answers-missing", "git checkout"),
    "answers corrupt": (answers_are("_commit: [v1.0.0\n"), "answers-corrupt", "git checkout"),
    "answers empty": (answers_are(""), "answers-corrupt", "git checkout"),
    "answers without source": (answers_are("_commit: v1.0.0\n"), "answers-corrupt", "git checkout"),
    "answers in conflict": (answers_are("<<<<<<< ours\n{template}"), "answers-corrupt", "git checkout"),
    "answers of a newer release": (edited("_commit: v1.0.0", "_commit: v9.0.0"), "unknown-version", "git fetch --tags"),
    "template moved": (moved_template, "unreachable", "_src_path"),
    "no repository": (without_repository, "not-a-repository", "git init"),
    "no commit": (without_commit, "no-commit", "Commit"),
    "uncommitted edit": (uncommitted, "dirty", "Commit or stash"),
    "untracked file": (untracked, "dirty", "Commit or stash"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_updated_is_said_and_left_alone(service: Path, case: str) -> None:
    damage, code, remedy = CANNOT[case]
    damage(service)
    before = content(service)
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, code), ended.out
    assert remedy in ended.json["error"]["remedy"]
    assert content(service) == before


def test_a_version_that_is_not_there(service: Path) -> None:
    before = state(service)
    ended = marty(service, "update", "--to", "v7.0.0", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, "unknown-version")
    assert "v7.0.0" in ended.json["error"]["message"]
    assert state(service) == before


def test_nobody_goes_back(service: Path) -> None:
    marty(service, "update")
    commit(service, "Update")
    ended = marty(service, "update", "--to", "v1.0.0", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, "downgrade")


def test_a_failing_migration_leaves_the_service_as_it_was(service: Path) -> None:
    before = state(service)
    ended = marty(service, "update", "--json", MIGRATION_EXIT="5")
    assert (ended.code, ended.json["error"]["code"]) == (3, "migration-failed")
    assert state(service) == before


def test_a_template_that_nobody_trusts_runs_no_code(service: Path) -> None:
    before = state(service)
    ended = marty(service, "update", "--json", MARTY_TRUST="0")
    assert (ended.code, ended.json["error"]["code"]) == (3, "untrusted")
    assert "--trust" in ended.json["error"]["remedy"]
    assert state(service) == before


def test_no_password_is_printed(service: Path) -> None:
    text = (service / ANSWERS).read_text()
    source = next(line for line in text.splitlines() if line.startswith("_src_path"))
    edited(source, "_src_path: https://user:sesame@127.0.0.1:1/marty.git")(service)
    for command in (["update"], ["update", "--json"], ["doctor"], ["doctor", "--json"]):
        ended = marty(service, *command)
        assert ended.code in {1, 3}
        assert "127.0.0.1" in ended.out + ended.err
        assert "sesame" not in ended.out + ended.err


def test_a_service_in_a_shallow_clone_is_updated(service: Path, tmp_path: Path) -> None:
    commit_again(service)
    git(tmp_path, "clone", "--quiet", "--depth=1", service.as_uri(), "shallow")
    ended = marty(tmp_path / "shallow", "update", "--json")
    assert (ended.code, ended.json["state"]) == (0, "updated"), ended.out


def commit_again(service: Path) -> None:
    """Make a second commit."""
    write(service, {"own.txt": "mine\n"})
    commit(service, "Own")


def test_a_service_in_a_sub_folder_leaves_its_neighbours_alone(first_release: Path, tmp_path: Path) -> None:
    top = tmp_path / "many"
    for name in ("one", "two"):
        shutil.copytree(first_release, top / f"services/{name}", ignore=shutil.ignore_patterns(".git"))
    git(top, "init", "--quiet")
    write(top / "services/one", {"text.md": MINE})
    write(top / "services/two", {"text.md": MINE})
    commit(top, "Two services")
    write(top / "services/two", {"unfinished.txt": "work\n"})
    first = marty(top / "services/one", "update", "--json")
    assert (first.code, first.json["conflicts"]) == (1, ["text.md"]), first.out
    unmerged = git(top, "ls-files", "--unmerged", "--full-name").splitlines()
    assert {line.partition("\t")[2] for line in unmerged} == {"services/one/text.md"}
    assert marty(top / "services/two", "update", "--json").json["error"]["code"] == "dirty"
    (top / "services/two/unfinished.txt").unlink()
    second = marty(top / "services/two", "update", "--json")
    assert (second.code, second.json["conflicts"]) == (1, ["text.md"]), second.out
    for name in ("one", "two"):
        assert marty(top / f"services/{name}", "update", "--abort").code == 0
    assert git(top, "status", "--porcelain") == ""


def test_what_git_ignores_is_never_touched(service: Path) -> None:
    write(service, {".gitignore": "more.py\n"})
    commit(service, "Ignore")
    write(service, {"code/more.py": "secret = 1\n"})
    assert marty(service, "update").code == 0
    assert (service / "code/more.py").read_text() == "secret = 1\n"


def test_an_ignored_file_in_the_way_stops_the_update(first_release: Path, tmp_path: Path) -> None:
    top = tmp_path / "many"
    shutil.copytree(first_release, top / "orders", ignore=shutil.ignore_patterns(".git"))
    git(top, "init", "--quiet")
    write(top, {".gitignore": "more.py\n"})
    commit(top, "A service")
    write(top, {"orders/code/more.py": "secret = 1\n"})
    before = content(top)
    ended = marty(top / "orders", "update", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, "in-the-way")
    assert "code/more.py" in ended.json["error"]["message"]
    assert content(top) == before


def test_a_submodule_is_updated(service: Path, tmp_path: Path) -> None:
    top = tmp_path / "outer"
    top.mkdir()
    git(top, "init", "--quiet")
    git(top, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(service), "orders")
    commit(top, "Submodule")
    ended = marty(top / "orders", "update", "--json")
    assert (ended.code, ended.json["state"]) == (0, "updated"), ended.out
    assert marty(top / "orders", "update", "--abort").code == 0
    assert git(top / "orders", "status", "--porcelain") == ""


def test_links_mode_bits_and_read_only_files_stay(service: Path) -> None:
    (service / "link").symlink_to("text.md")
    (service / "nowhere").symlink_to("../not/there")
    (service / "port.md").chmod(0o755)
    commit(service, "Links and modes")
    (service / "text.md").chmod(0o444)
    before = state(service)
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["state"]) == (0, "updated"), ended.out
    assert (service / "link").readlink() == Path("text.md")
    assert (service / "nowhere").is_symlink()
    assert (service / "port.md").stat().st_mode & 0o777 == 0o755
    assert (service / "run.sh").stat().st_mode & 0o111
    assert (service / "text.md").stat().st_mode & 0o777 == 0o444
    assert "line two" in (service / "text.md").read_text()
    marty(service, "update", "--abort")
    assert state(service) == before


@pytest.mark.parametrize("filemode", ["true", "false"])
def test_a_mode_that_the_template_changes_comes_along(service: Path, tmp_path: Path, filemode: str) -> None:
    template = make_template(tmp_path / "template")
    git(template, "update-index", "--chmod=+x", "template/text.md")
    git(template, "commit", "--quiet", "--message", "2.1.0")
    git(template, "tag", "v2.1.0")
    source = next(line for line in (service / ANSWERS).read_text().splitlines() if line.startswith("_src_path"))
    edited(source, f"_src_path: {template}")(service)
    git(service, "config", "core.filemode", filemode)
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["state"]) == (0, "updated"), ended.out
    assert git(service, "ls-files", "--stage", "text.md").startswith("100755")


def test_a_binary_file_of_the_owner_stays(service: Path) -> None:
    (service / "logo.png").write_bytes(bytes(range(256)))
    write(service, {"text.md": LINES.replace("line 20\n", "line vingt\n")})
    commit(service, "Logo")
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["state"]) == (0, "updated"), ended.out
    assert (service / "logo.png").read_bytes() == bytes(range(256))
    assert "line vingt" in (service / "text.md").read_text()


@pytest.fixture
def blocking(tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Return the environment in which git stops before the first command of a kind, until the test ends."""
    real = shutil.which("git")
    folder = tmp_path / "bin"
    write(folder, {"git.sh": BLOCKING_GIT.format(git=real)})
    (folder / "git.sh").rename(folder / "git")
    block = tmp_path / "block"

    def variables(command: str) -> dict[str, str]:
        return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "BLOCK": str(block), "BLOCK_AT": command}

    yield variables
    block.with_suffix(".go").touch()


def stopped(process: subprocess.Popen[str], block: Path) -> None:
    """Wait until git has stopped."""
    while not block.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", BEFORE)
def test_a_signal_before_the_last_step_leaves_the_service_as_it_was(
    service: Path, blocking: Callable[[str], dict[str, str]], command: str, number: signal.Signals
) -> None:
    write(service, {"text.md": MINE})
    commit(service, "Edit")
    before = content(service), git(service, "ls-files", "--stage")
    variables = blocking(command)
    process = start(service, "update", **variables)
    stopped(process, Path(variables["BLOCK"]))
    os.killpg(process.pid, number)
    _, said = process.communicate()
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), said
    assert (content(service), git(service, "ls-files", "--stage")) == before
    assert marty(service, "update", "--json").json["conflicts"] == ["text.md"]


def test_ctrl_c_in_the_last_step_comes_too_late(service: Path, blocking: Callable[[str], dict[str, str]]) -> None:
    variables = blocking("update-index")
    process = start(service, "update", "--json", **variables)
    stopped(process, Path(variables["BLOCK"]))
    os.killpg(process.pid, signal.SIGINT)
    Path(variables["BLOCK"]).with_suffix(".go").touch()
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert '"state": "updated"' in out
    assert marty(service, "update", "--abort").code == 0


def test_a_kill_in_the_last_step_is_taken_back_by_abort(
    service: Path, blocking: Callable[[str], dict[str, str]]
) -> None:
    before = content(service), git(service, "ls-files", "--stage")
    variables = blocking("update-index")
    process = start(service, "update", **variables)
    stopped(process, Path(variables["BLOCK"]))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    ended = marty(service, "update", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (3, "unfinished")
    assert "--abort" in ended.json["error"]["remedy"]
    assert marty(service, "doctor", "--json").json["findings"]
    assert marty(service, "update", "--abort").code == 0
    assert (content(service), git(service, "ls-files", "--stage")) == before
    assert marty(service, "update", "--json").json["state"] == "updated"


@pytest.mark.parametrize("second", [(), ("--continue",), ("--abort",)])
def test_two_updates_of_one_service_do_not_meet(
    service: Path, blocking: Callable[[str], dict[str, str]], second: tuple[str, ...]
) -> None:
    variables = blocking("checkout-index")
    process = start(service, "update", "--json", **variables)
    stopped(process, Path(variables["BLOCK"]))
    ended = marty(service, "update", "--json", *second)
    assert (ended.code, ended.json["error"]["code"]) == (3, "running")
    Path(variables["BLOCK"]).with_suffix(".go").touch()
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert '"state": "updated"' in out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Write a file that leaves so many bytes free."""
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - left))


@pytest.mark.parametrize("left", [0, 8192, 16384, 24576, 32768, 40960])
def test_a_full_disk_leaves_the_service_as_it_was(first_release: Path, small_disk: Path, left: int) -> None:
    service = shutil.copytree(
        first_release, small_disk / "orders", ignore=shutil.ignore_patterns("hooks", "logs", "description", "info")
    )
    (service / ".git/info").mkdir(exist_ok=True)
    before = content(service), git(service, "ls-files", "--stage")
    fill(small_disk, left)
    ended = marty(service, "update", "--json")
    if ended.code == 0:  # this much was enough
        assert left > 8192
        assert marty(service, "update", "--abort").code == 0
    else:
        assert (ended.code, ended.json["error"]["code"]) == (3, "cannot-write"), ended.out
    assert (content(service), git(service, "ls-files", "--stage")) == before


def test_a_full_temporary_folder_leaves_the_service_as_it_was(service: Path, small_disk: Path) -> None:
    before = state(service)
    fill(small_disk, 16384)
    process = start(service, "update", "--json", TMPDIR=str(small_disk))
    out, said = process.communicate()
    assert process.returncode == 3, out + said
    assert '"error"' in out
    assert state(service) == before
