"""What docs/observability.md tells to type works when it is typed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.pages import Terminal, blocks, clean_environment
from tests.servers.requirement import missing
from tests.updates.history import tagged_clone

PAGE = ROOT / "docs" / "observability.md"


@pytest.mark.slow
def test_what_the_page_tells_to_type_works(tmp_path: Path) -> None:
    for tool in ("kubectl", "promtool"):
        if shutil.which(tool) is None:
            missing(f"{tool} is not on the PATH")
    checkout = tagged_clone(tmp_path / "marty")
    terminal = Terminal(
        checkout, clean_environment(), lambda text: text.replace(".venv/bin/python", sys.executable), ""
    )
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        terminal.type(block)


def test_the_page_is_found_from_the_readme() -> None:
    assert "(docs/observability.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
