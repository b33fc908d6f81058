"""The questions of a template as it stands in a folder, and answers that its own validators accept."""

from __future__ import annotations

import runpy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from allpairspy import AllPairs
from hypothesis import strategies as st

from tests.conftest import HOSTILE

# Any text that some question may take; each takes what its validator accepts. The edges of lengths are among them.
TEXTS = (
    HOSTILE,
    "abc",
    "a1-b2-c3",
    "x" * 40,
    "x" * 63,
    "x" * 100,
    "x" * 200,
    "a.b",
    ".".join(["x" * 49] * 4),
    "localhost:5000/team/image",
    "a/b__c.d-e",
    "a@b.co",
    "o'first.last+tag@sub.example.co.uk",
    "9",
    "null-service",
    "",
)
SOURCES = ("", "../lib", "git+https://example.com/marty.git", "vendor/marty_lib-1.0.0-py3-none-any.whl")
LABEL = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
# What an answer looks like, by its validator; other text is any printable line.
SHAPES = {
    "service_name_problem": "[a-z][a-z0-9-]{1,38}[a-z0-9]",
    "namespace_problem": LABEL,
    "domain_problem": rf"{LABEL}(\.{LABEL}){{1,3}}",
    "registry_problem": rf"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{{1,5}})?(/{LABEL})*",
    "email_problem": r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+",
}


@dataclass(frozen=True)
class Question:
    """A question of `copier.yml`, and the validator that its extension holds for it."""

    name: str
    type: str
    choices: tuple[Any, ...]
    check: Callable[[Any], str]
    default: Any

    def accepts(self, answer: Any) -> bool:
        """Tell whether Copier would take the answer."""
        if self.choices:
            return answer in self.choices
        if (self.type == "int") != isinstance(answer, int):
            return False
        return not self.check(answer)


def questions(template: Path) -> dict[str, Question]:
    """Read the questions of a template's folder."""
    checks = runpy.run_path(str(template / "extensions/answers.py"))["CHECKS"]
    found = yaml.safe_load((template / "copier.yml").read_text())
    return {
        name: Question(name, asked["type"], choices(asked), checks.get(name, lambda _: ""), asked["default"])
        for name, asked in found.items()
        if not name.startswith("_")
    }


def choices(asked: dict[str, Any]) -> tuple[Any, ...]:
    found = asked.get("choices", ())
    return tuple(found.values() if isinstance(found, dict) else found)


def edges(asked: dict[str, Question]) -> dict[str, list[Any]]:
    """Return answers to each question: all choices, the shortest and the longest text, the lowest and highest number."""
    ports = [name for name, question in asked.items() if question.type == "int"]
    found: dict[str, list[Any]] = {}
    for name, question in asked.items():
        pool: tuple[Any, ...] = question.choices or TEXTS
        if name == "marty_lib_source":
            pool = SOURCES
        elif name == "copyright_year":
            pool = ("2019",)
        elif name in ports:  # no two may be equal
            pool = (1024 + ports.index(name), 30000 + ports.index(name), 65535 - ports.index(name))
        found[name] = [answer for answer in pool if question.accepts(answer)]
    return found


def pairwise(asked: dict[str, Question], kinds: dict[str, frozenset[str]]) -> list[dict[str, Any]]:
    """Return sets of answers in which each pair of answers to any two questions occurs."""
    pools = {name: [*pool[:2], *pool[-2:]] if len(pool) > 8 else pool for name, pool in edges(asked).items()}
    pools["broker"] = [*pools["broker"], None]
    names = list(pools)

    def possible(row: list[Any]) -> bool:
        answers = dict(zip(names, row, strict=False))
        if not {"service_kind", "broker"} <= answers.keys():
            return True
        return ("broker" in kinds[answers["service_kind"]]) == (answers["broker"] is not None)

    rows = AllPairs(OrderedDict(pools), filter_func=possible)
    return [{name: answer for name, answer in row._asdict().items() if answer is not None} for row in rows]


def valid_answers(asked: dict[str, Question]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for valid answers to all questions that are asked of people."""
    ports = [name for name, question in asked.items() if question.type == "int"]
    numbers = st.lists(st.integers(1024, 65535), min_size=len(ports), max_size=len(ports), unique=True)
    texts = {
        name: answers_to(question)
        for name, question in asked.items()
        if name not in (*ports, "copyright_year", "marty_lib_source")
    }
    return st.builds(
        lambda texts, numbers: texts | dict(zip(ports, numbers, strict=True)), st.fixed_dictionaries(texts), numbers
    )


def answers_to(question: Question) -> st.SearchStrategy[Any]:
    """Return a strategy for valid answers to one question."""
    if question.choices:
        return st.sampled_from(question.choices)
    shape = SHAPES.get(question.check.__name__)
    text = st.from_regex(shape, fullmatch=True) if shape else st.text(min_size=1, max_size=200)
    return text.filter(question.accepts)
