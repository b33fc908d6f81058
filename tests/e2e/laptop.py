"""docs/laptop-to-canary.md, read as a person with one mesh reads it, and a terminal in which it is typed.

Without a cluster what needs one is looked at: scripts know their options, make's targets exist, overlays build, files
are there. With one all of it is typed; `tests/e2e/cluster` does that.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.e2e.pages import SECONDS, TOOLS, Block, Terminal, blocks, end

PAGE = ROOT / "docs" / "laptop-to-canary.md"
HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
FOR_ONE = re.compile(r"^# .*\bwith (Istio|Linkerd)\b")
PORT = re.compile(r"port-forward .*\bservice/\S+ (\d+)")
ASSIGNED = re.compile(r"(?:\w+=\S+\s+)+(?=[a-z])")
# What is typed everywhere, for the folder and the variables that later lines need.
HERE = re.compile(r"cd |export |git clone |\w+=\S+(\s*#.*)?$")
# What makes sense where a cluster is, beside make, scripts and the tools of `pages`.
COMMANDS = TOOLS | {"curl", "grep", "sleep", "uv"}


def sections(mesh: str) -> dict[str, list[Block]]:
    """Return the commands of the page by heading, in order, without those of the other mesh."""
    _, *found = HEADING.split(PAGE.read_text(encoding="utf-8"))
    headings, texts = found[::2], found[1::2]
    return {
        heading: [block for block in blocks(text) if is_for(block, mesh)]
        for heading, text in zip(headings, texts, strict=True)
    }


def is_for(block: Block, mesh: str) -> bool:
    """Say whether somebody with this mesh types a block."""
    named = FOR_ONE.match(block.commands)
    return named is None or named[1].lower() == mesh


def typing(mesh: str, template: Path, library: str, **answers: object) -> Callable[[str], str]:
    """Return a function that puts this checkout, its library and a mesh into a text of the page.

    Args:
        mesh: istio or linkerd.
        template: a clone of this repository that Copier renders from.
        library: what services get marty-lib from.
        answers: to the template's questions, besides.
    """
    data = " ".join(f"--data={name}={value}" for name, value in {"marty_lib_source": library, **answers}.items())

    def typed(text: str) -> str:
        clone = shlex.quote(str(template))
        text = text.replace("https://github.com/org/marty", f"--quiet {clone} marty")
        text = text.replace("gh:org/marty", f"--quiet --defaults --vcs-ref=HEAD {data} {clone}")
        return text.replace("MESH=istio", f"MESH={mesh}")

    return typed


class Laptop(Terminal):
    """A terminal on a machine with a cluster: what needs one is typed, too.

    A process that stays up is a port-forward: it is there when its port is, and Ctrl-C ends it.
    """

    def type(self, block: Block) -> None:
        """Run a block as the page means it; fail with what was printed."""
        super().type(Block(f"# with a cluster\n{block.commands}", block.prints))

    def run(self, line: str) -> str:
        """Run one command where the page has come to, which must succeed; return what it printed."""
        return self._run(line, lenient=False)

    def _wait_for(self, process: subprocess.Popen[bytes], line: str) -> None:
        found = PORT.search(line)
        assert found, f"this is no port-forward: {line}"
        ends = time.monotonic() + SECONDS / 10
        while not listening(int(found[1])):
            assert process.poll() is None, f"{line} ended with {process.returncode}:\n{self._printed()}"
            assert time.monotonic() < ends, f"nothing is at port {found[1]}:\n{self._printed()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End what stays up, if anything does, as Ctrl-C would."""
        process, self._process = self._process, None
        if process is not None:
            end(process)


class NoCluster(Terminal):
    """A terminal on a machine without a cluster: what needs one is looked at, line by line."""

    def _look_at(self, line: str) -> None:
        line = ASSIGNED.sub("", line, count=1) if not HERE.match(line) else line
        words = shlex.split(line.partition("|")[0], comments=True)
        if HERE.match(line):
            self._dry(line)
        elif words[0].endswith(".sh"):
            self._look_at_script(*words)
        elif words[0] == "kubectl" and {"-f", "-k"} & set(words):
            self._look_at_manifests(*words)
        elif words[0] == "make":
            super()._look_at(line)
        else:
            assert words[0] in COMMANDS, f"this runs anywhere, so that it belongs into a block of its own: {line}"

    def _look_at_manifests(self, *words: str) -> None:
        if "-k" in words:
            self._dry(f"kubectl kustomize {shlex.quote(words[words.index('-k') + 1])}")
        else:
            self._dry(f"test -f {shlex.quote(words[words.index('-f') + 1])}")

    def _look_at_script(self, script: str, *arguments: str) -> None:
        shown = self._bash(f"{shlex.quote(script)} --help")
        assert shown.returncode == 0, shown.stdout
        unknown = [word for word in arguments if word.startswith("--") and word not in shown.stdout]
        assert not unknown, f"{script} does not know {unknown}"


def listening(port: int) -> bool:
    """Say whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
