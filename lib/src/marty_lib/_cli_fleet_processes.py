"""Other programs, run so that an interruption ends all of them: each in a session of its own, which Ctrl-C spares."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from marty_lib._cli_report import redacted

# A hook, make or an activated environment that started us must not reach the repositories of others.
UNWANTED = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "VIRTUAL_ENV",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
)
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GH_PROMPT_DISABLED": "1", "LC_ALL": "C.UTF-8"}
GRACE = 5.0  # seconds from SIGTERM to SIGKILL

_lock = threading.Lock()
_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


class Failed(Exception):
    """A program has ended with an error; the text is what it said, without passwords of addresses."""

    def __init__(self, said: str) -> None:
        super().__init__(redacted(said))


class Stopped(Exception):
    """The run is interrupted: nothing new is started."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a child, which asks nobody anything."""
    return {name: value for name, value in os.environ.items() if name not in UNWANTED} | QUIET | more


def git(folder: Path, *arguments: str, stdin: str = "", **variables: str) -> str:
    """Run git in a folder without its hooks; return what it prints, without the last newline.

    Raises:
        Failed: where git does.
        Stopped: while the run is being interrupted.
    """
    return output("git", "-c", f"core.hooksPath={os.devnull}", *arguments, folder=folder, stdin=stdin, **variables)


def output(*command: str, folder: Path, stdin: str = "", **variables: str) -> str:
    """Run a program; return what it prints, without the last newline.

    Raises:
        Failed: where it ends with an error.
        Stopped: while the run is being interrupted.
    """
    process = _start(command, folder, environment(**variables), subprocess.PIPE, subprocess.PIPE, subprocess.PIPE)
    try:
        printed, said = process.communicate(stdin.encode())
    except BaseException:
        _signal(process, signal.SIGTERM)
        raise
    finally:
        _ended(process)
    if process.returncode:
        raise Failed(said.decode(errors="replace").strip() or f"{command[0]} ended with {process.returncode}")
    return printed.decode(errors="replace").rstrip("\n")


def logged(command: Sequence[str], *, folder: Path, log: Path, printed: Path | None, env: Mapping[str, str]) -> int:
    """Run a program, and append what it says to a log; return its exit code.

    Args:
        printed: takes what it prints instead, for a program to read.

    Raises:
        Stopped: while the run is being interrupted.
    """
    with log.open("ab") as said, (printed or log).open("ab") as prints:
        process = _start(command, folder, env, subprocess.DEVNULL, prints, said)
        try:
            return process.wait()
        finally:
            _ended(process)


def stop() -> None:
    """End every program that runs, with all that it has started, and start no other."""
    with _lock:
        _stopped.set()
        processes = list(_running)
    for process in processes:
        _signal(process, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)


def go() -> None:
    """Let programs be started (again)."""
    _stopped.clear()


def _start(
    command: Sequence[str], folder: Path, env: Mapping[str, str], stdin: int, out: int | IO[bytes], err: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    with _lock:
        if _stopped.is_set():
            raise Stopped
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=stdin, stdout=out, stderr=err, start_new_session=True
        )
        _running.add(process)
    return process


def _ended(process: subprocess.Popen[bytes]) -> None:
    with _lock:
        _running.discard(process)
    if _stopped.is_set():
        raise Stopped


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, number)
