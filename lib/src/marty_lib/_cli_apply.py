"""Bring a finished update into the service in one step, or not at all; and take it back."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from marty_lib._cli_changes import Result, blobs, differences
from marty_lib._cli_git import GitError, Place, git
from marty_lib._cli_report import SIGNALS, Failure
from marty_lib._cli_scratch import Scratch

JOURNAL = "update.json"


@dataclass(frozen=True)
class Journal:
    """What `--continue` and `--abort` need to know of an update; it is written before the service is touched.

    Args:
        head: the commit that was updated.
        to: the template's new version.
        message: to commit the update with.
        written: paths that the update has added or changed, from the service's folder.
        removed: paths that it has deleted.
        conflicts: paths that somebody has to look at.
        blobs: mode, type and hash of what was written.
        finished: all of it is in the service.
    """

    head: str
    to: str
    message: str
    written: list[str]
    removed: list[str]
    conflicts: list[str]
    blobs: list[str]
    finished: bool = False

    @property
    def touched(self) -> list[str]:
        """All paths of the update."""
        return [*self.written, *self.removed]

    def write(self, state: Path) -> None:
        """Write it whole or not at all, and to the disk."""
        temporary = state / f"{JOURNAL}.new"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(state / JOURNAL)

    @classmethod
    def read(cls, state: Path) -> Journal | None:
        """Return the journal of the update that is under way, if one is."""
        try:
            return cls(**json.loads((state / JOURNAL).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def apply(place: Place, copy: Scratch, result: Result, *, to: str, message: str) -> None:
    """Bring a result into the service: files, and git's index with its unmerged entries.

    All files are written beside the repository's own first; then each is put into place by a rename. So a full disk
    or Ctrl-C leaves the service as it was, and `roll_back` needs no space.

    Raises:
        Failure: a file of the owner is in the way, or it cannot be written; the service is as it was.
    """
    found = differences(copy.folder, copy.head, result.tree)
    written = [path for status, path, _ in found if status != "D"]
    removed = [old or path for status, path, old in found if status in "DR"]
    before, after = blobs(copy.folder, copy.head), blobs(copy.folder, result.tree)
    check_room(place, written, {*after} - {*before})
    journal = Journal(place.head, to, message, written, removed, result.conflicts, [after[path] for path in written])
    state = place.state
    shutil.rmtree(state, ignore_errors=True)
    try:
        (state / "old").mkdir(parents=True)
        import_objects(place, copy, result)
        stage(place, copy, result.tree, written)
        place.check_clean()  # the owner may have typed on
        with undisturbed():
            journal.write(state)
            swap(place, journal)
            update_index(place, copy, result, journal)
            Journal(**{**asdict(journal), "finished": True}).write(state)
    except BaseException as error:
        with undisturbed():
            roll_back(place, journal)
        if isinstance(error, (OSError, GitError)):
            raise Failure(
                "cannot-write",
                f"The update cannot be written: {error}.",
                "Make room or mend the rights, then try again.",
            ) from None
        raise


def check_room(place: Place, written: list[str], added: set[str]) -> None:
    """Refuse to write over what git does not keep for the owner.

    Raises:
        Failure: an ignored file, or a folder, is where the update puts a file.
    """
    taken = [path for path in written if path in added and os.path.lexists(place.folder / path)]
    taken += [path for path in written if any(not_a_folder(each, place) for each in (place.folder / path).parents)]
    if taken:
        raise Failure(
            "in-the-way",
            f"The update brings files where you have others, which git ignores: {', '.join(sorted(set(taken)))}.",
            "Move yours away, then try again.",
        )


def not_a_folder(path: Path, place: Place) -> bool:
    """Tell whether a path inside the service is there, but no folder of its own."""
    return path.is_relative_to(place.folder) and path != place.folder and path.is_symlink()


def import_objects(place: Place, copy: Scratch, result: Result) -> None:
    """Copy the blobs that the index will name from the scratch repository."""
    wanted = {facts.split()[2] for facts in blobs(copy.folder, result.tree).values()}
    wanted -= {facts.split()[2] for facts in blobs(copy.folder, copy.head).values()}
    wanted |= {entry.split()[1] for entry in result.unmerged}
    if wanted:
        pack = git(copy.folder, "pack-objects", "--stdout", "-q", stdin="\n".join(sorted(wanted)).encode() + b"\n")
        git(place.folder, "unpack-objects", "-q", stdin=pack)


def stage(place: Place, copy: Scratch, tree: str, written: list[str]) -> None:
    """Write the files of the result into the state's folder, as git would write them into the service."""
    entries = blobs(copy.folder, tree)
    index = {"GIT_INDEX_FILE": str(place.state / "index")}
    lines = [index_line(entries[path], place.prefix + path) for path in written]
    git(place.top, "update-index", "-z", "--index-info", stdin=joined(lines), variables=index)
    names = joined(place.prefix + path for path in written)
    prefix = f"--prefix={place.state / 'new'}/"
    git(place.top, "checkout-index", "-z", "--force", prefix, "--stdin", stdin=names, variables=index)


def swap(place: Place, journal: Journal) -> None:
    """Move the service's files into the state's folder, and the new ones into their places."""
    for path in journal.touched:
        target, old = place.folder / path, place.state / "old" / path
        if os.path.lexists(target):
            old.parent.mkdir(parents=True, exist_ok=True)
            target.replace(old)
    for path in journal.removed:
        remove_empty(place, (place.folder / path).parent)
    for path in journal.written:
        target, old = place.folder / path, place.state / "old" / path
        new = place.state / "new" / (place.prefix + path)
        if old.is_file() and not old.is_symlink() and not new.is_symlink():
            new.chmod((old.stat().st_mode & ~0o111) | (new.stat().st_mode & 0o111))
        target.parent.mkdir(parents=True, exist_ok=True)
        new.replace(target)


def roll_back(place: Place, journal: Journal) -> None:
    """Put the service's files back into their places, and git's index with them; may be done twice."""
    state = place.state
    if Journal.read(state):  # else nothing has been moved yet
        for path in journal.written:
            if not os.path.lexists(state / "new" / (place.prefix + path)):
                (place.folder / path).unlink(missing_ok=True)
                remove_empty(place, (place.folder / path).parent)
        for path in journal.touched:
            old = state / "old" / path
            if os.path.lexists(old):
                (place.folder / path).parent.mkdir(parents=True, exist_ok=True)
                old.replace(place.folder / path)
        reset_index(place, journal)
    shutil.rmtree(state, ignore_errors=True)


def reset_index(place: Place, journal: Journal) -> None:
    """Put the entries of an update in git's index back, where they were changed."""
    try:
        git(place.folder, "diff-index", "--cached", "--quiet", journal.head, "--", ".")
    except GitError:
        names = joined(place.prefix + path for path in {*journal.touched, *journal.conflicts})
        only = ["--pathspec-from-file=-", "--pathspec-file-nul"]
        git(place.top, "reset", "-q", *only, journal.head, stdin=names, variables={"GIT_LITERAL_PATHSPECS": "1"})


def update_index(place: Place, copy: Scratch, result: Result, journal: Journal) -> None:
    """Record the update in git's index, conflicts as git records them."""
    entries = blobs(copy.folder, result.tree)
    unmerged = [entry.split("\t", 1) for entry in result.unmerged]
    open_paths = {path for _, path in unmerged}
    gone = [f"0 {'0' * len(copy.head)}\t{place.prefix}{path}" for path in (*journal.removed, *sorted(open_paths))]
    lines = [
        *gone,
        *(index_line(entries[path], place.prefix + path) for path in journal.written if path not in open_paths),
        *(f"{facts}\t{place.prefix}{path}" for facts, path in unmerged),
    ]
    git(place.top, "update-index", "-z", "--index-info", stdin=joined(lines))


def index_line(facts: str, path: str) -> str:
    """Return an entry for `git update-index --index-info` from one of `git ls-tree`."""
    mode, _, sha = facts.split()
    return f"{mode} {sha} 0\t{path}"


def joined(lines: Iterator[str] | list[str]) -> bytes:
    """Return the lines as git reads them with `-z`."""
    return b"".join(os.fsencode(line) + b"\0" for line in lines)


def remove_empty(place: Place, folder: Path) -> None:
    """Remove a folder of the service and those around it, as far as they are empty."""
    while folder != place.folder and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal that can be ignored interrupt what must be whole, in git's processes either."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
