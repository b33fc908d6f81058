"""Filters that carry any text unchanged into a Python, TOML, YAML, JSON, Dockerfile or Markdown file."""

from __future__ import annotations

import json
import re

from jinja2 import Environment
from jinja2.ext import Extension

# What CommonMark would read as more than the characters: code, emphasis, links, tags and autolinks, entities,
# and a backslash before punctuation.
MARKDOWN = re.compile(
    r"[`*\[\]~]"
    r"|(?<![^\W_])_|_(?![^\W_])"
    r"|<(?=/?[A-Za-z][A-Za-z0-9-]*[\s/>]|[!?]|[A-Za-z][A-Za-z0-9+.-]*:|[^\s<>@]+@)"
    r"|&(?=#?[A-Za-z0-9]+;)"
    r"|\\(?=[!-/:-@\[-`{-~])"
    r"|^(?=(?:#{1,6}|[-+>=|]|\d{1,9}[.)])(?:\s|$))"
)


class Quoting(Extension):
    """Offer the filters to templates."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters.update({each.__name__: each for each in (quoted, python, dockerfile, markdown, uv_source)})


def quoted(text: object) -> str:
    """Return a JSON string, which is also a TOML basic string and a double-quoted YAML scalar."""
    return json.dumps(str(text), ensure_ascii=False)


def python(text: object) -> str:
    """Return a Python literal with the quotes that the formatter would choose."""
    double = quoted(text)
    if str(text).count('"') <= str(text).count("'"):
        return double
    return "'" + double[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"


def dockerfile(text: object) -> str:
    """Return a double-quoted value of a Dockerfile's LABEL or ENV, in which no variable is expanded."""
    return quoted(text).replace("$", "\\$")


def markdown(text: object) -> str:
    """Return Markdown that shows the text as it is, for use inside a paragraph or a heading."""
    return MARKDOWN.sub(lambda found: "\\" + found[0], str(text))


def uv_source(source: str) -> str:
    """Return the inside of uv's source table for a git URL, a wheel or a folder."""
    if source.startswith(("git+", "https://", "ssh://")):
        return f"git = {quoted(source.removeprefix('git+'))}"
    return f"path = {quoted(source)}" + ("" if source.endswith(".whl") else ", editable = true")
