"""Run a command for as long as somebody holds a lock on a folder; then end all that it has started, remove the folder.

    python guard.py FOLDER USER COMMAND...

It stands between pytest and a server. Locks of a process end with it, however it ends, so no server outlives the tests
that use it. What the command leaves behind (a daemon of its own) is ended too. USER may be empty: then nothing changes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import psutil

PR_SET_CHILD_SUBREAPER = 36


def descendants() -> list[psutil.Process]:
    """Return all that runs below this process, parents before their children."""
    return psutil.Process().children(recursive=True)


def end_descendants() -> None:
    """Kill until nothing is left: a process may be starting another one meanwhile."""
    while found := descendants():
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=5)


def adopt_orphans() -> None:
    """Become the parent of what a descendant leaves behind (Linux), so that it is found."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_when_unlocked(lock: int) -> None:
    """Wait for the last user to go."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    end_descendants()


def main(folder: str, user: str, *command: str) -> int:
    """Do what the module says; return the exit code of the command."""
    adopt_orphans()
    lock = os.open(folder, os.O_RDONLY)
    identity: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    child = subprocess.Popen(command, cwd=folder, **identity)
    threading.Thread(target=end_when_unlocked, args=(lock,), daemon=True).start()
    code = child.wait()
    end_descendants()
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
