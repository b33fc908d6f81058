"""One run at a time, where the system knows locks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from marty_lib import _cli_lock
from marty_lib._cli_report import Failure

BUSY = Failure("running", "Another one is running.", "Wait for it.")


def test_a_second_one_is_told_and_a_later_one_is_not(tmp_path: Path) -> None:
    with _cli_lock.locked(tmp_path, BUSY), pytest.raises(Failure, match="running"), _cli_lock.locked(tmp_path, BUSY):
        pytest.fail("both are in")
    with _cli_lock.locked(tmp_path, BUSY):
        assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with _cli_lock.locked(tmp_path, BUSY), _cli_lock.locked(tmp_path, BUSY):
        pass


def test_a_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli_lock, "fcntl", None)
    with _cli_lock.locked(tmp_path, BUSY), _cli_lock.locked(tmp_path, BUSY):
        pass
