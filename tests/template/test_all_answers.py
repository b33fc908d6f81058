"""Every pair of answers to any two questions, and answers drawn at random: what is rendered is whole and valid."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from copier import run_copy
from hypothesis import HealthCheck, given, settings
from jinja2 import Environment

from extensions.kinds import KINDS
from tests.conftest import ANSWERS, ROOT
from tests.template.branches import Branch, branches, recorded
from tests.template.questions import edges, pairwise, questions, valid_answers

ASKED = questions(ROOT)
ROWS = pairwise(ASKED, KINDS)
# Expressions of GitHub's workflows are no Jinja.
JINJA = re.compile(r"\{%|%\}|\{#|#\}|(?<!\$)\{\{")
OWN_TEMPLATES = "/api/templates/"
PARSERS: dict[str, Callable[[str], Any]] = {
    ".py": ast.parse,
    ".toml": tomllib.loads,
    ".json": json.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
}
pytestmark = pytest.mark.xdist_group("all-answers")  # one process renders, and all of its tests share the renders


def problems(service: Path, answers: dict[str, Any]) -> list[str]:
    """Return what is wrong with the files of a render: what does not parse, and what Jinja has left."""
    texts = [str(answer) for answer in answers.values() if JINJA.search(str(answer))]
    found = []
    for path in sorted(path for path in service.rglob("*") if path.is_file()):
        name, text = str(path.relative_to(service)), path.read_text()
        try:
            PARSERS.get(path.suffix, str)(text)
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            found.append(f"{name}: {error}")
        for answer in texts:  # an answer may look like Jinja, and must come through as it is
            for form in (answer, json.dumps(answer, ensure_ascii=False)[1:-1]):
                text = text.replace(form, "")
        if JINJA.search(name) or (JINJA.search(text) and OWN_TEMPLATES not in name and not texts):
            found.append(f"{name}: Jinja is left")
    return found


def rendered(template: Path, service: Path, answers: dict[str, Any]) -> Path:
    """Render in this process; nothing is asked, nothing printed."""
    run_copy(str(template), service, answers, defaults=True, quiet=True, unsafe=True)
    return service


def contents(service: Path) -> dict[str, bytes]:
    return {str(path.relative_to(service)): path.read_bytes() for path in service.rglob("*") if path.is_file()}


class Renders(NamedTuple):
    """A render for each set of answers, and the branches of the template that they took."""

    services: list[Path]
    taken: set[Branch]


@pytest.fixture(scope="module")
def renders(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Renders:
    folder = tmp_path_factory.mktemp("pairs")
    with recorded() as taken:
        services = [rendered(template, folder / str(number), row) for number, row in enumerate(ROWS)]
    return Renders(services, taken)


def test_each_pair_of_answers_is_rendered() -> None:
    pools = edges(ASKED)
    answered = {name: {str(row[name]) for row in ROWS if name in row} for name in pools}
    assert {name for name, pool in pools.items() if len(answered[name]) < min(len(pool), 2)} <= {"copyright_year"}
    for one, other in combinations(["service_kind", "mesh", "python_version", "marty_lib_source"], 2):
        pairs = {(row[one], row[other]) for row in ROWS}
        assert pairs >= set(product(pools[one], pools[other])), (one, other)


def test_every_render_parses_and_has_no_jinja_left(renders: Renders) -> None:
    found = {
        str(row): wrong
        for row, service in zip(ROWS, renders.services, strict=True)
        if (wrong := problems(service, row))
    }
    assert not found


def test_every_branch_of_the_template_is_taken(renders: Renders, template: Path) -> None:
    every = branches(template)
    assert len(every) > 300
    missing = sorted(map(str, every - renders.taken))
    assert not missing, "\n".join(["These branches are never taken: delete them, or let an answer take them.", *missing])


def test_a_branch_that_is_never_taken_is_named(tmp_path: Path) -> None:
    name = "{% if a %}f{% endif %}.jinja"
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / name).write_text("{% if b %}\n{{ 1 if c else 2 }}\n{% elif d %}\n{% endif %}\n")
    environment = Environment()
    with recorded() as taken:
        assert environment.from_string("{% if a %}f{% endif %}").render(a=True) == "f"
        source = (tmp_path / "template" / name).read_text()
        code = environment.compile(source, f"template/{name}")
        environment.template_class.from_code(environment, code, environment.make_globals(None)).render(b=True, c=False)
    missing = sorted(map(str, branches(tmp_path) - taken))
    assert missing == [
        f"template/{name}:1: condition 1 is never missed",
        f"template/{name}:2: condition 1 is never met",
        f"template/{name}:3: condition 1 is never met",
        f"template/{name}:3: condition 1 is never missed",
        "{% if a %}f{% endif %}:1: condition 1 is never missed",
    ]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(valid_answers(ASKED))
def test_whatever_is_answered_renders_and_renders_alike(
    template: Path, tmp_path_factory: pytest.TempPathFactory, answers: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    first = rendered(template, folder / "first", ANSWERS | answers)
    assert not problems(first, answers)
    assert contents(first) == contents(rendered(template, folder / "second", ANSWERS | answers))
