"""Copier, run where it can do no harm, with its errors as ours."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import copier._main as engine  # its run_update() renders the old version too, but shows it to nobody
from copier._template import Template
from copier.errors import CopierError, TaskError, UnsafeTemplateError, UnsupportedVersionError, UserMessageError
from packaging.version import Version
from plumbum import ProcessExecutionError, local

from marty_lib._cli_answers import FILE, Answers
from marty_lib._cli_report import Failure, redacted

DEFAULT_TEMPLATE = "gh:org/marty"
UNKNOWN = ("Unknown revision", "did not match any file", "invalid reference", "unknown revision")


@dataclass
class Update:
    """An update that Copier can make.

    Args:
        template: a clone of the new version, there while the update is under way.
        recorded: a clone of the old version.
        to: the new version, a tag or what `git describe` says.
        old: the old version, as a number.
        new: the new version, as a number.
        run: makes the update.
        answer_again: renders nothing but the answers file, with the old version, and returns its folder.
        renders: what `seen` has returned, the old version's first.
    """

    template: Path
    recorded: Path
    to: str
    old: Version
    new: Version
    run: Callable[[], None]
    answer_again: Callable[[], Path]
    renders: list[str] = field(default_factory=list)


@contextmanager
def prepared(
    answers: Answers,
    folder: Path,
    *,
    trust: bool,
    to: str | None = None,
    data: Mapping[str, Any] = MappingProxyType({}),
    seen: Callable[[Path], str] = str,
) -> Iterator[Update]:
    """Find the template's old and new version, and yield the update that leads from one to the other.

    Args:
        answers: of the service.
        folder: a repository with the service, which `run()` changes.
        trust: the template may run code; the project's own always may, and what Copier's settings trust.
        to: the new version; None is the newest release.
        data: answers to change.
        seen: called with the folder of each render that Copier compares with the service.

    Raises:
        Failure: the template or one of its versions cannot be had, or the update has failed.
    """
    shared: dict[Any, Template] = {}
    renders: list[str] = []

    class Worker(engine.Worker):
        """Shares the clones of the template among the renders of an update, and shows the renders."""

        @cached_property
        def template(self) -> Template:
            ref = self.resolved_vcs_ref
            if ref not in shared:
                shared[ref] = Template(url=answers.source, ref=ref)
            return shared[ref]

        def _sync_git_index_executable_bit(self, dst_relpath: Path, src_mode: int) -> None:
            """Do nothing: Copier would ask git for each file whether the scratch folder has mode bits; it has."""

        def run_copy(self) -> None:
            super().run_copy()
            if self.dst_path != folder:
                renders.append(seen(self.dst_path))

    def answer_again() -> Path:
        target = Path(tempfile.mkdtemp())
        with Worker(
            src_path=answers.source,
            dst_path=target,
            vcs_ref=answers.version,
            data=answers.data,
            defaults=True,
            quiet=True,
            unsafe=unsafe,
            skip_tasks=True,
            exclude=["*", f"!{FILE}"],
        ) as again:
            again.run_copy()
        return target

    unsafe = trust or answers.source == DEFAULT_TEMPLATE
    with (
        local.env(**os.environ),  # Copier hands its tasks the environment of when it was imported
        copier_errors(answers.source),
        Worker(
            dst_path=folder, vcs_ref=to, data=dict(data), defaults=True, overwrite=True, quiet=True, unsafe=unsafe
        ) as worker,
    ):
        with unreachable(answers, answers.version):
            old = worker.subproject.template
            assert old is not None  # the answers file names it
            if old.vcs is None:
                raise ValueError("no git repository is there")
            old_version = old.version
            shared[answers.version] = shared[old.commit] = old
        with unreachable(answers, to or "newest release"):
            new, new_version = worker.template, worker.template.version
            _ = new.config_data  # refuses a Copier that is too old
        if not old_version or not new_version:
            raise Failure(
                "no-versions",
                f"The template {answers.source} has no releases to tell {answers.version} from.",
                "Tag the template's releases vX.Y.Z.",
            )
        clones = new.local_abspath, old.local_abspath
        run = worker.run_update
        yield Update(*clones, str(new.commit), old_version, new_version, run, answer_again, renders)


@contextmanager
def unreachable(answers: Answers, version: str, *, rendering: bool = False) -> Iterator[None]:
    """Tell a template that cannot be had from a version that it does not have.

    Args:
        answers: with the template's address and the recorded version.
        version: the one that is wanted.
        rendering: more is done inside than reading the template, so that other errors are something else.
    """
    try:
        yield
    except UnsupportedVersionError:
        raise
    except (ProcessExecutionError, ValueError, OSError, UserMessageError) as error:
        said = redacted(str(getattr(error, "stderr", "") or error).strip())
        if any(word in said for word in UNKNOWN):
            raise unknown_version(answers, version) from None
        if rendering and not isinstance(error, ProcessExecutionError) and "must be a directory" not in said:
            raise
        raise Failure(
            "unreachable",
            f"The template {answers.source} cannot be read: {said.splitlines()[-1] if said else 'nothing is there'}",
            "See that you may read it; if it has moved, write its new address as _src_path into .copier-answers.yml, "
            "and commit.",
        ) from None


def unknown_version(answers: Answers, version: str) -> Failure:
    """Return the failure for a version that the template does not have."""
    if version == answers.version:
        return Failure(
            "unknown-version",
            f"The template {answers.source} has no version {version}, which .copier-answers.yml names.",
            "Fetch the template's tags where it is (git fetch --tags), or restore _commit in .copier-answers.yml.",
        )
    return Failure(
        "unknown-version",
        f"The template {answers.source} has no version {version}.",
        f"Choose one that it has: git ls-remote --tags {answers.source}.",
    )


@contextmanager
def copier_errors(source: str) -> Iterator[None]:
    """Turn what Copier raises into failures of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnsafeTemplateError:
        raise Failure(
            "untrusted",
            f"The template {source} runs code on this machine, and is not trusted.",
            "Add --trust, or name it under trust: in Copier's settings file.",
        ) from None
    except UnsupportedVersionError as error:
        raise Failure("copier-too-old", f"{error}", "Upgrade Copier: uv sync --upgrade-package copier.") from None
    except TaskError as error:
        raise Failure(
            "migration-failed",
            f"A migration of the template has failed: {error}",
            "Tell the template's owners what it has printed.",
        ) from None
    except (CopierError, UserMessageError, ValueError) as error:
        raise Failure("copier", f"Copier cannot do it: {error}", "Mend what it says, then try again.") from None
    except ProcessExecutionError as error:
        said = str(error.stderr or error).strip().splitlines() or [source]
        raise Failure("copier", f"Copier cannot do it: {said[-1]}", "Mend what git says, then try again.") from None


@contextmanager
def captured() -> Iterator[list[str]]:
    """Collect what is printed inside, by migrations too, so that nothing of it reaches a script's JSON."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, each in enumerate(kept, 1):
                os.dup2(each, number)
                os.close(each)
            file.seek(0)
            lines += [redacted(text) for text in file.read().decode(errors="replace").splitlines() if text.strip()]
