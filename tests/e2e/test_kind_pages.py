"""Each kind has a page from rendering to production, and what it tells to type works when it is typed.

CONTRIBUTING.md says how such a page is written, `tests/e2e/pages.py` how it is read.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from marty_lib.testing import free_ports

from extensions.kinds import BACKENDS
from extensions.kinds import KINDS as FEATURES
from tests.conftest import KINDS, ROOT
from tests.e2e.pages import Block, Terminal, blocks, clean_environment, matches, parts
from tests.servers.requirement import missing
from tests.updates.history import IDENTITY, tagged_clone

PAGES = ROOT / "docs" / "kinds"
HEADINGS = ("Render", "Run", "Call", "Test", "Configure", "Real servers", "Image", "Manifests", "Production", "Watch")
ADDRESS = re.compile(r"\b(127\.0\.0\.1|localhost):(8000|50051|9000)\b")
SERVERS = {
    r"postgresql\+asyncpg://[^\s'\"`]+": "postgresql_url",
    r"redis://[^\s'\"`]+": "redis_url",
    r"amqp://[^\s'\"`]+": "rabbitmq_url",
    r"kafka://[^\s'\"`]+": "kafka_url",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands at gh:org/marty: this working tree, committed."""
    return tagged_clone(tmp_path_factory.mktemp("pages") / "marty")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder that has the same name for each page: Python keeps what it compiles by the path of the source."""
    folder = tmp_path_factory.getbasetemp() / "page"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, folder: Path, checkout: Path) -> Iterator[Terminal]:
    """A terminal in which ports, servers and the template's address of a page are those of this test."""
    for tool in ("bash", "curl", "kubectl"):
        if shutil.which(tool) is None:
            missing(f"{tool} is not on the PATH")
    ports = dict(zip(("8000", "50051", "9000"), free_ports(3), strict=True))
    environment = (
        clean_environment() | IDENTITY | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    )
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # That all of a service's own tests pass, on servers too, others have shown; that the command works, these few show.
    environment["PYTEST_ADDOPTS"] = "--cov-fail-under=0 tests/unit"
    # So few are slower in parallel. That they run in parallel, the tests of databases, caches and auth on servers show.
    environment["PYTEST_XDIST_AUTO_NUM_WORKERS"] = "0"
    environment["PYTHONPYCACHEPREFIX"] = f"{folder}-compiled"
    environment["GIT_CONFIG_GLOBAL"] = str(folder / ".gitconfig")
    (folder / ".gitconfig").write_text("[user]\nname = Ada Example\nemail = ada@example.com\n")
    typed = typing(request, checkout, ports)
    opened = Terminal(folder, environment, typed, f"http://127.0.0.1:{ports['9000']}/health/ready")
    yield opened
    opened.stop()


def typing(request: pytest.FixtureRequest, checkout: Path, ports: dict[str, int]) -> Callable[[str], str]:
    """Return a function that puts this test's ports, servers and template into a text of a page."""
    answers = {
        "http_port": ports["8000"],
        "grpc_port": ports["50051"],
        "ops_port": ports["9000"],
        "marty_lib_source": ROOT / "lib",
    }
    data = " ".join(f"--data={name}={value}" for name, value in answers.items())
    template = f"--quiet --defaults --vcs-ref=HEAD {data} '{checkout}'"

    def typed(text: str) -> str:
        text = text.replace("gh:org/marty", template)
        text = ADDRESS.sub(lambda found: f"{found[1]}:{ports[found[2]]}", text)
        for pattern, fixture in SERVERS.items():
            if re.search(pattern, text):
                text = re.sub(pattern, request.getfixturevalue(fixture), text)
        return text

    return typed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_page_of_a_kind_tells_to_type_works(terminal: Terminal, kind: str) -> None:
    for block in blocks((PAGES / f"{kind}.md").read_text()):
        terminal.type(block)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_a_kind_goes_from_rendering_to_production(kind: str) -> None:
    wanted = [heading for heading in HEADINGS if heading != "Real servers" or FEATURES[kind] & BACKENDS]

    assert re.findall("^## (.+)$", (PAGES / f"{kind}.md").read_text(), re.MULTILINE) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_a_kind_is_found_from_the_readme(kind: str) -> None:
    assert f"(docs/kinds/{kind}.md)" in (ROOT / "README.md").read_text()


def test_there_is_no_page_without_a_kind() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(KINDS)


PAGE = """
    first \\
      --flag

Text, and a language to read:

```python
third()
```

```sh
second   # stays up
fourth
```

```text
out... of
it
```

    # needs a cluster
    kubectl apply -k here
"""


def test_a_page_is_its_blocks_of_commands_with_what_they_print() -> None:
    one, two, three = blocks(PAGE)

    assert one == Block("first \\\n  --flag\n")
    assert two == Block("second   # stays up\nfourth\n", "out... of\nit\n")
    assert [block.elsewhere for block in (one, two, three)] == [False, False, True]


def test_what_stays_up_or_is_refused_runs_by_itself() -> None:
    commands = "a\nb\nmake dev  # stays up; Ctrl-C stops it\nc\nd  # is refused\n"

    assert list(parts(commands)) == ["a\nb\n", "make dev  # stays up; Ctrl-C stops it\n", "c\n", "d  # is refused\n"]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("", "anything", True),
        ('{"id":"...","n":1}', 'x\n{"id":"42","n":1}', True),
        ('{"id":"...","n":1}', '{"id":"42","n":2}', False),
        ("one\ntwo", "one\nmore\ntwo", True),
        ("one\ntwo", "two\none", False),
        ("one...two", "one\ntwo", False),
    ],
)
def test_what_is_printed_is_compared_line_by_line(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same


@pytest.mark.slow
class TestAPageFails:
    """Where what it tells to type does not do what it says."""

    @pytest.mark.parametrize(
        "block",
        [
            Block("false\n"),
            Block("false | true\n"),
            Block("true  # is refused\n"),
            Block("echo one\n", "two\n"),
            Block("# needs a cluster\nrm -r service\n"),
            Block("# needs a cluster\nmake of-nobody\n"),
            Block("# needs a cluster\nkubectl apply -k of/nobody\n"),
            Block("curl -s http://127.0.0.1:9000/\n"),
            Block("exit 3  # stays up\n"),
        ],
        ids=lambda block: block.commands.strip(),
    )
    def test_by_its_commands(self, terminal: Terminal, block: Block) -> None:
        with pytest.raises(AssertionError):
            terminal.type(block)


def test_a_terminal_keeps_folder_and_variables(terminal: Terminal) -> None:
    terminal.type(Block("mkdir orders && cd orders\nitem='an engine'\n"))
    terminal.type(Block('echo "$item in $(basename "$PWD")"\n', "an engine in orders\n"))
