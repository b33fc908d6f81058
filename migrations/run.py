"""Do what the releases between two versions have declared (`releases.py`); `copier update` runs this at each stage.

    run.py STAGE TEMPLATE ANSWERS_FILE

It runs in the service's folder, by the Python that runs Copier. Before the update it maps answers; after it, it carries
over what Copier would lose (`carry.py`), then sets keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrations.answers import remap
from migrations.carry import carry, new_paths, say
from migrations.releases import Declaration, Key, between
from migrations.repository import answers, committed, git, has_crlf, may_lack_files, work_since


def main(stage: str, template: str, file: str) -> None:
    """Run one stage. Copier says by variables which versions it updates from and to."""
    declared = between(os.environ["VERSION_PEP440_FROM"], os.environ["VERSION_PEP440_TO"])
    if stage == "before":
        remap(declared, file)
        return
    old, new = answers(committed(file)), answers(Path(file).read_bytes())
    keep_work(declared, template, file, old, new)
    set_keys([each for each in declared if isinstance(each, Key)], package(new))


def keep_work(declared: list[Declaration], template: str, file: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Carry over what Copier would lose, where there may be such; the renders that it takes are the dear part."""
    changed = any(new.get(question) != answer for question, answer in old.items())
    if not changed and os.environ["VERSION_FROM"] == os.environ["VERSION_TO"]:
        return
    needed = changed or bool(declared) or has_crlf()
    if not needed and not may_lack_files(file):
        return
    with contextlib.ExitStack() as renders:
        base = renders.enter_context(rendered(template, "FROM", old))
        work = work_since(base)
        if needed or work.renamed:
            theirs = renders.enter_context(rendered(template, "TO", new))
            carry(base, theirs, work, new_paths(declared, package(old), package(new)), but=file)


def package(answers: dict[str, Any]) -> str:
    return str(answers["service_name"]).replace("-", "_")


@contextlib.contextmanager
def rendered(template: str, version: str, answers: dict[str, Any]) -> Iterator[Path]:
    """Render the service aside, and yield the folder; `template` is Copier's clone, which knows every release.

    The clone may be a partial one, from which nothing can be cloned again: so it is asked for a tree of its own.
    """
    from copier import run_copy  # slow to import, and rarely needed

    with tempfile.TemporaryDirectory(prefix="marty-migration-") as aside:
        source, service = Path(aside, "template"), Path(aside, "service")
        command = ("worktree", "add", "--quiet", "--detach", "--force", str(source), os.environ[f"VERSION_{version}"])
        git("-C", template, "-c", f"core.hooksPath={os.devnull}", *command)
        (source / ".git").unlink()
        run_copy(str(source), service, answers, defaults=True, quiet=True, unsafe=True)
        yield service


def set_keys(keys: list[Key], package: str) -> None:
    """Set keys with parsers that Copier has not: by uv, which every service needs anyway."""
    if not keys:
        return
    edits = [asdict(key) | {"path": key.path.format(package=package)} for key in keys]
    script = [str(Path(__file__).with_name("keys.py")), json.dumps(edits)]
    if find_spec("tomlkit") and find_spec("ruamel"):
        command = [sys.executable, *script]
    else:
        command = [shutil.which("uv") or "", "run", "--quiet", "--no-project", "--script", *script]
    if not command[0] or subprocess.run(command, check=False).returncode:
        for edit in edits:
            say(f"{edit['path']}: set {'.'.join(map(str, edit['key']))} to {edit['value']} by hand; with uv it is done")


if __name__ == "__main__":
    main(*sys.argv[1:])
