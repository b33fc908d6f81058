"""Three texts become one: the owner's, what the old release had rendered, and what the new one has."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from migrations.repository import EXECUTABLE, LINK, PLAIN


@dataclass(frozen=True)
class File:
    """A file's content and git's mode of it."""

    content: bytes
    mode: str = PLAIN

    @classmethod
    def at(cls, path: Path) -> File | None:
        """Read a file of a render, if it is there."""
        if not path.is_file():
            return None
        return cls(path.read_bytes(), EXECUTABLE if path.stat().st_mode & 0o100 else PLAIN)

    def write(self, path: Path) -> None:
        """Write it, whatever was there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if self.mode == LINK:
            path.symlink_to(self.content.decode())
            return
        path.write_bytes(self.content)
        if self.mode == EXECUTABLE:
            path.chmod(path.stat().st_mode | 0o111)


def merge(mine: File, base: File, theirs: File) -> tuple[File, bool]:
    """Return what the three make together, and whether lines of both sides conflict.

    Where the owner has chosen the line endings of Windows, they hold. What is no text, or a link, is the owner's.
    """
    mode = theirs.mode if mine.mode == base.mode else mine.mode
    old, new = base.content, theirs.content
    if other_endings(mine, base):
        old, new = (content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for content in (old, new))
    if old == new or mine.content == new:
        return File(mine.content, mode), False
    if mine.content == old:
        return File(new, mode), False
    if LINK in (mine.mode, theirs.mode) or any(b"\0" in content for content in (mine.content, old, new)):
        return File(mine.content, mode), True
    content, conflict = merge_lines(mine.content, old, new)
    return File(content, mode), conflict


def other_endings(mine: File, base: File) -> bool:
    """Tell whether the owner has made all line ends those of Windows."""
    return windows(mine.content) and not windows(base.content)


def windows(content: bytes) -> bool:
    return 0 < content.count(b"\n") == content.count(b"\r\n")


def merge_lines(mine: bytes, base: bytes, theirs: bytes) -> tuple[bytes, bool]:
    """Merge texts as Copier does; where lines conflict, markers hold both."""
    with tempfile.TemporaryDirectory(prefix="marty-migration-") as folder:
        files = [Path(folder, name) for name in ("before updating", "last update", "after updating")]
        for file, content in zip(files, (mine, base, theirs), strict=True):
            file.write_bytes(content)
        labels = [argument for file in files for argument in ("-L", file.name)]
        command = ["git", "merge-file", "-p", *labels, *map(str, files)]
        ended = subprocess.run(command, capture_output=True, check=False)
    if ended.returncode > 127:  # fewer is the number of conflicts
        raise OSError(ended.stderr.decode())
    return ended.stdout, ended.returncode != 0
