"""Which branches of the template are taken: each condition, of files and of their names, must be met and be missed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from jinja2 import Environment, nodes


class Branch(NamedTuple):
    """One side of a condition: the file, or a part of a path; its line; which condition of that line."""

    where: str
    line: int
    number: int
    met: bool

    def __str__(self) -> str:
        return f"{self.where}:{self.line}: condition {self.number + 1} is never {'met' if self.met else 'missed'}"


def conditions(tree: nodes.Template) -> Iterator[tuple[nodes.If | nodes.CondExpr, int, int]]:
    """Yield each condition of a template, its line, and its number on that line."""
    seen: dict[int, int] = {}
    for node in tree.find_all((nodes.If, nodes.CondExpr)):
        assert isinstance(node, nodes.If | nodes.CondExpr)
        number = seen.get(node.lineno, 0)
        seen[node.lineno] = number + 1
        yield node, node.lineno, number


@contextlib.contextmanager
def recorded() -> Iterator[set[Branch]]:
    """Yield the branches that are taken by whatever Jinja renders meanwhile in this process."""
    taken: set[Branch] = set()
    parse = Environment._parse

    def take(met: Any, where: str, line: int, number: int) -> Any:
        taken.add(Branch(where, line, number, bool(met)))
        return met

    def watch(self: Environment, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = parse(self, source, name, filename)
        for node, line, number in list(conditions(tree)):
            place = [nodes.Const(each) for each in (name or source, line, number)]
            call = nodes.Call(nodes.Name("take_branch", "load"), [node.test, *place], [], None, None)
            node.test = call.set_lineno(line).set_environment(self)
        self.globals["take_branch"] = take
        return tree

    with patch.object(Environment, "_parse", watch):
        yield taken


def branches(template: Path) -> set[Branch]:
    """Return all branches of a template's files and of the parts of their paths, which Copier renders one by one."""
    environment, sources = Environment(), dict[str, str]()
    for path in (template / "template").rglob("*"):
        part = path.name.removesuffix(".jinja")
        sources[part] = part
        if path.suffix == ".jinja" and path.is_file():
            sources[path.relative_to(template).as_posix()] = path.read_text()
    return {
        Branch(name, line, number, met)
        for name, source in sources.items()
        for _, line, number in conditions(environment.parse(source))
        for met in (True, False)
    }
