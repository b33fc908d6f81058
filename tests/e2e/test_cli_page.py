"""What the page of the `marty` command tells to type works when it is typed, and its tables are complete."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from marty_lib import _cli_report

from tests.conftest import ROOT
from tests.e2e.pages import Terminal, blocks, clean_environment
from tests.updates.history import IDENTITY, tagged_clone

PAGE = (ROOT / "docs/cli.md").read_text()
SOURCES = [path.read_text() for path in (ROOT / "lib/src/marty_lib").glob("*cli*.py") if "fleet" not in path.name]


@pytest.mark.slow
def test_what_the_page_tells_to_type_works(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    environment = clean_environment() | IDENTITY | {"MARTY_TRUST": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    environment["MARTY_TEMPLATE"] = str(tagged_clone(tmp_path / "marty"))
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Ada Example"}
    environment |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "ada@example.com"}
    terminal = Terminal(tmp_path / "here", environment, str, "")
    for block in blocks(PAGE):
        terminal.type(block)


def test_the_page_names_every_exit_code() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == list(_cli_report.Exit)


def test_the_page_names_every_code_of_a_failure_or_finding() -> None:
    codes = {code for text in SOURCES for code in re.findall(r"(?:Failure|Finding)\(\s*\"([a-z-]+)\"", text)}
    assert len(codes) > 20
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()
