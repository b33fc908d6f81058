"""The benchmark runs; what it measures is for people to judge."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Requests per second, share of bare, CPU time, p50, p99 and memory are above zero.
FIGURES = r"^\| {name} \| ([\d,]+) \| ([\d.]+) \([^)]+\) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \| -?\d+ \|$"


@pytest.mark.slow
def test_the_quick_form_prints_a_plausible_row_for_every_server() -> None:
    command = [sys.executable, "-m", "tests.bench.run", "--quick"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in ("bare FastAPI", "service", "service, traces exported", "usual assembly"):
        row = re.search(FIGURES.format(name=name), ended.stdout, re.MULTILINE)
        assert row, ended.stdout
        assert all(float(figure.replace(",", "")) > 0 for figure in row.groups()), row[0]
    assert re.search(r"^- Rendering took [\d.]+ s .* Copier's floor is [\d.]+ s", ended.stdout, re.MULTILINE)
