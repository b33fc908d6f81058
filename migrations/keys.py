# /// script
# requires-python = ">=3.11"
# dependencies = ["ruamel.yaml>=0.18", "tomlkit>=0.13"]
# ///
"""Set keys of TOML and YAML files, and leave all else in them as it is: comments, order, quotes.

    keys.py '[{"path": "pyproject.toml", "key": ["tool", "ruff", "line-length"], "value": 120, "was": 100}, ...]'

Copier's environment has neither parser: `run.py` lets uv run this file, which installs them beside.
"""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any


def set_key(path: Path, key: list[str | int], value: Any, was: Any) -> str:
    """Set one key, and return what the owner must know, or ''."""
    wish = f"{path}: {'remove' if value is None else 'set'} {'.'.join(map(str, key))}"
    wish += "" if value is None else f" to {json.dumps(value)}"
    if not path.is_file():
        return f"{wish}, wherever you have it: there is no such file"
    text = path.read_bytes().decode()
    load, dump = (toml, toml_text) if path.suffix == ".toml" else (yaml, yaml_text)
    document = load(text)
    found = look_up(document, key)
    if found == value:
        return ""
    if found != was:
        return f"{wish}, if you like: you have {json.dumps(found, default=str)} there"
    if dump(document) != text:
        return f"{wish}, by hand: it is written in a way that cannot be kept"
    put(document, key, value)
    path.write_bytes(dump(document).encode())
    return ""


def look_up(document: Any, key: list[str | int]) -> Any:
    """Return the value at a key's path, or None."""
    for part in key:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return None
    return document.unwrap() if hasattr(document, "unwrap") else document


def put(document: Any, key: list[str | int], value: Any) -> None:
    """Set or remove the value at a key's path; tables above it are made."""
    *above, last = key
    for part in above:
        if part not in document and isinstance(document, dict):
            document[part] = {}
        document = document[part]
    if value is None:
        del document[last]
    else:
        document[last] = value


def toml(text: str) -> Any:
    import tomlkit

    return tomlkit.parse(text)


def toml_text(document: Any) -> str:
    import tomlkit

    return tomlkit.dumps(document)


def round_trip() -> Any:
    from ruamel.yaml import YAML

    parser = YAML()
    parser.preserve_quotes = True
    parser.width = 1 << 16
    parser.indent(mapping=2, sequence=4, offset=2)  # as the template writes lists
    return parser


def yaml(text: str) -> Any:
    return round_trip().load(text)


def yaml_text(document: Any) -> str:
    stream = StringIO()
    round_trip().dump(document, stream)
    return stream.getvalue()


if __name__ == "__main__":
    for edit in json.loads(sys.argv[1]):
        if sentence := set_key(Path(edit.pop("path")), **edit):
            print(f" > {sentence}", file=sys.stderr)
