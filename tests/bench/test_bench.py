"""The benchmark runs; what it measures is for people to judge."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.bench import suite_events, suite_start, suite_update
from tests.bench.plan import QUICK
from tests.bench.report import BEGIN, END, PAGE
from tests.bench.run import SUITES
from tests.conftest import ROOT

# Requests per second, share of bare, CPU time and memory are above zero; p50 and p99 may be too short to show.
FIGURES = r"^\| {name} \| ([\d,]+) \| ([\d.]+) \([^)]+\) \| (\d+) \| [\d.]+ \| [\d.]+ \| (\d+) \| -?\d+ \|$"
ROWS = {
    "http": ("bare FastAPI", "service", "service, traces exported", "usual assembly"),
    "grpc": ("bare grpc.aio", "service"),
    "database": ("bare SQLAlchemy", "its unit of work alone", "service"),
    "cache": ("get on bare FastAPI", "get in the same service", "cache"),
    "events": tuple(suite_events.ROWS),
    "ratelimit": ("bare FastAPI", "service", "service with a rate limit"),
}
pytestmark = [pytest.mark.xdist_group("bench")]


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """What the quick form prints for each suite."""
    command = [sys.executable, "-m", "tests.bench.run", "--quick"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    _, *found = re.split(r"^## (\w+)$", ended.stdout, flags=re.MULTILINE)
    return dict(zip(found[::2], found[1::2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("suite", ROWS)
def test_a_suite_prints_a_plausible_row_for_everything_that_it_compares(sections: dict[str, str], suite: str) -> None:
    for name in ROWS[suite]:
        row = re.search(FIGURES.format(name=name), sections[suite], re.MULTILINE)
        assert row, sections[suite]
        assert all(float(figure.replace(",", "")) > 0 for figure in row.groups()), row[0]


@pytest.mark.slow
def test_rendering_is_timed_beside_copiers_floor(sections: dict[str, str]) -> None:
    assert re.search(r"^- Rendering took [\d.]+ s .* Copier's floor is [\d.]+ s", sections["http"], re.MULTILINE)


@pytest.mark.parametrize("suite", SUITES)
def test_the_page_has_a_place_for_the_figures_of_each_suite(suite: str) -> None:
    page = PAGE.read_text()

    assert page.index(BEGIN.format(name=suite)) < page.index(END.format(name=suite))


@pytest.mark.slow
@pytest.mark.parametrize("kind", suite_start.kinds())
def test_import_and_memory_of_each_kind_stand_beside_bare(sections: dict[str, str], kind: str) -> None:
    figures = rf"^\| {kind} \| (\d+) \| (\d+) \| ([\d.]+) \([^)]+\) \| (\d+) \| (\d+) \| -?\d+ \|$"
    row = re.search(figures, sections["start"], re.MULTILINE)
    assert row, sections["start"]
    assert all(float(figure) > 0 for figure in row.groups()), row[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copier copy", *suite_update.COMMANDS])
def test_an_update_is_timed_beside_copiers_own(sections: dict[str, str], name: str) -> None:
    row = re.search(rf"^\| {name} \| ([\d.]+) \([^)]+\) \| ([\d.]+) \| ([\d.]+) \(", sections["update"], re.MULTILINE)
    assert row, sections["update"]
    assert all(float(figure) > 0 for figure in row.groups()), row[0]


@pytest.mark.slow
@pytest.mark.parametrize("services", ["lone", str(QUICK.services // 10), str(QUICK.services)])
def test_a_service_of_a_fleet_stands_beside_a_lone_update(sections: dict[str, str], services: str) -> None:
    figures = rf"^\| {services} \| ([\d.]+) \| [\d.]* \| ([\d.]+) \| ([\d.]+) \| -?[\d.]+ \| (\d+) \| (\d+) \|$"
    row = re.search(figures, sections["fleet"], re.MULTILINE)
    assert row, sections["fleet"]
    assert all(float(figure) > 0 for figure in row.groups()), row[0]


def test_no_suite_goes_untested() -> None:
    assert {*ROWS, "start", "update", "fleet"} == set(SUITES)
