"""Pages of docs/kinds, read as a person reads them: commands typed in order into one terminal.

What an indented or fenced block of a page is:

- `text` or `json` after the fence: what the block before it prints, line by line; `...` is anything.
- a first line that is a comment beginning with `# needs a`: commands for a cluster, a registry or a container engine.
  They are looked at: make's targets exist, overlays build, everything else is a command that only makes sense there.
- any other word after the fence, such as `python`: something to read.
- else commands. A line whose comment begins with `# stays up` is a process: it is started and waited for, and stopped
  before the next such line and at the end. A line with `# is refused` must fail.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from markdown_it import MarkdownIt
from marty_lib.testing import status

SHELLS = frozenset({"", "sh", "bash", "shell", "console"})
OUTPUTS = frozenset({"text", "json"})
ELSEWHERE = "# needs a"
STAYS_UP = re.compile(r"#\s*stays up\b")
REFUSED = re.compile(r"#\s*is refused\b")
# First words of what can only be done where a cluster, a registry or a container engine is.
TOOLS = frozenset({"docker", "istioctl", "kubectl", "kustomize", "linkerd", "podman"})
SECONDS = 600.0

# What is assigned or exported stays for the next block, as in a terminal.
SCRIPT = """set -euo pipefail; set -o allexport
. "$PAGE_STATE"; cd "$PAGE_FOLDER"; CURL_HOME={curl}
{commands}
export -p >"$PAGE_STATE"; declare -p PWD | sed 's/PWD/PAGE_FOLDER/' >>"$PAGE_STATE"
"""


@dataclass(frozen=True)
class Block:
    """Commands of a page, and what they print where the page says so."""

    commands: str
    prints: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether it needs more than this machine."""
        return self.commands.lstrip().startswith(ELSEWHERE)


def blocks(text: str) -> list[Block]:
    """Return the blocks of commands in a page, in order."""
    found: list[Block] = []
    for token in MarkdownIt().parse(text):
        word = token.info.partition(" ")[0]
        if token.type == "fence" and word in OUTPUTS:
            assert found, f"output of nothing: {token.content}"
            assert not found[-1].prints, f"a second output: {token.content}"
            found[-1] = Block(found[-1].commands, token.content)
        elif token.type in {"code_block", "fence"} and word in SHELLS:
            found.append(Block(token.content))
    return found


def lines(commands: str) -> list[str]:
    """Return the commands one by one: a backslash at the end continues a line."""
    return [line for line in commands.replace("\\\n", " ").splitlines() if line.strip() and line.lstrip()[0] != "#"]


class Terminal:
    """One person's terminal.

    Args:
        folder: where it opens.
        environment: its variables.
        typed: turns a text of the page into what is typed: other ports, addresses, the checkout.
        ready: the URL that answers 200 once what stays up is there.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], typed: Callable[[str], str], ready: str) -> None:
        self.folder = folder
        self._state = folder / ".state"
        self._state.write_text(f"PAGE_FOLDER={shlex.quote(str(folder))}\n")
        self._log = folder / ".log"
        self._environment = {**environment, "PAGE_STATE": str(self._state)}
        self._typed = typed
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def type(self, block: Block) -> None:
        """Run a block as the page means it; fail with what was printed."""
        commands, expected = self._typed(block.commands), self._typed(block.prints)
        if block.elsewhere:
            for line in lines(commands):
                self._look_at(line)
            return
        printed = "".join(self._run(part, lenient=bool(expected)) for part in parts(commands))
        assert matches(expected, printed), f"{block.commands}\nshould print\n{expected}\nbut prints\n{printed}"

    def _run(self, commands: str, *, lenient: bool) -> str:
        if STAYS_UP.search(commands):
            self._start(commands)
            return ""
        ended = self._bash(commands, lenient=lenient)
        refused = bool(REFUSED.search(commands))
        assert bool(ended.returncode) == refused, (
            f"{commands}ended with {ended.returncode}:\n{ended.stdout}\nWhat stays up has printed:\n{self._printed()}"
        )
        return ended.stdout

    def _bash(self, commands: str, *, lenient: bool = False) -> subprocess.CompletedProcess[str]:
        curl = shlex.quote(str(curl_home(self._state.parent, lenient=lenient)))
        return subprocess.run(
            ["bash", "-c", SCRIPT.format(commands=commands, curl=curl)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def _start(self, line: str) -> None:
        self.stop()
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f'set -o allexport; . "$PAGE_STATE"; cd "$PAGE_FOLDER"\n{line}'],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_for(process, line)
        except AssertionError:
            end(process)
            raise
        self._process = process

    def _wait_for(self, process: subprocess.Popen[bytes], line: str) -> None:
        ends = time.monotonic() + SECONDS
        while status(self._ready) != 200:
            assert process.poll() is None, f"{line} ended with {process.returncode}:\n{self._printed()}"
            assert time.monotonic() < ends, f"{line} does not answer at {self._ready}:\n{self._printed()}"
            time.sleep(0.05)

    def _printed(self) -> str:
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def stop(self) -> None:
        """Stop what stays up, if anything does, as Kubernetes would; it must end with 0."""
        process, self._process = self._process, None
        if process is None:
            return
        for service in filter(listens, below(process)):
            service.terminate()
        try:
            code = process.wait(60)
        finally:
            end(process)
        assert code == 0, f"it ended with {code}:\n{self._printed()}"

    def _look_at(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            self._dry(" ".join(["make --dry-run", *map(shlex.quote, words[1:])]))
        elif words[:3] == ["kubectl", "apply", "-k"]:
            self._dry(f"kubectl kustomize {shlex.quote(words[3])}")
        else:
            assert words[0] in TOOLS, f"this runs anywhere, so that it belongs into a block of its own: {line}"

    def _dry(self, command: str) -> None:
        ended = self._bash(command)
        assert ended.returncode == 0, f"{command} ended with {ended.returncode}:\n{ended.stdout}"


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return what runs below a process; nothing where it has ended."""
    return psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []


def listens(process: psutil.Process) -> bool:
    """Say whether it is the service, not make or uv around it."""
    return any(each.status == psutil.CONN_LISTEN for each in process.net_connections())


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started, however it is."""
    for each in below(process):
        each.kill()
    process.kill()
    process.wait()


def parts(commands: str) -> Iterator[str]:
    """Yield what runs in one go: lines that stay up or are refused stand alone, all between them runs together."""
    together = ""
    for line in commands.splitlines(keepends=True):
        if STAYS_UP.search(line) or REFUSED.search(line):
            if together.strip():
                yield together
            yield line
            together = ""
        else:
            together += line
    if together.strip():
        yield together


def matches(expected: str, printed: str) -> bool:
    """Say whether all expected lines are printed in their order; `...` is anything."""
    wanted = [re.escape(line.strip()).replace(re.escape("..."), ".*") for line in expected.splitlines() if line.strip()]
    return re.search("(?s:.*)".join(wanted), printed) is not None


def curl_home(folder: Path, *, lenient: bool) -> Path:
    """Return a home for curl, in which it fails where the answer is an error unless it is lenient."""
    home = folder / (".curl-lenient" if lenient else ".curl")
    home.mkdir(exist_ok=True)
    (home / ".curlrc").write_text("max-time = 30\n" + ("" if lenient else "fail-with-body\n"))
    return home


def clean_environment() -> dict[str, str]:
    """Return this environment without what belongs to this repository's tests."""
    unwanted = {"VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTEST_FLAGS", "COV_CORE_SOURCE"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {name: value for name, value in kept.items() if not name.startswith(("PYTEST_", "MARTY_TEST_"))}
