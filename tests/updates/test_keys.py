"""Keys of TOML and YAML files that a release sets: comments, order and the owner's own values stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.updates.made_template import Template, commit, update


def windows(text: str) -> str:
    return text.replace("\n", "\r\n")


TOML = 'title = "x"  # a title\n\n[tool.ruff]\nline-length = 100 # wide\nown = [1,2]\n\n[tool.other]\nflag = false\n'
YAML = "# a file\na:\n  - b: 'old'  # quoted\n    c: 1\n"


def test_keys_are_set_and_all_else_stays_as_it_is(tmp_path: Path) -> None:
    template = Template(tmp_path / "template")
    template.release("1.0.0", {"p.toml": TOML, "p.yaml": YAML, "windows.toml": TOML})
    work = {"p.toml": TOML.replace("flag = false", "flag = true"), "windows.toml": windows(TOML)}
    service = commit(template.render(tmp_path / "service", "1.0.0"), work)
    template.release(
        "2.0.0",
        {},
        "Key('p.toml', ('tool', 'ruff', 'line-length'), 120, was=100)",
        "Key('p.toml', ('tool', 'new', 'key'), 'made')",
        "Key('p.toml', ('title',), None, was='x')",
        "Key('p.toml', ('tool', 'other', 'flag'), 'theirs', was=False)",
        "Key('windows.toml', ('tool', 'ruff', 'line-length'), 120, was=100)",
        "Key('p.yaml', ('a', 0, 'b'), 'new', was='old')",
        "Key('none.yaml', ('a',), 1)",
    )
    said = update(service)
    text = (service / "p.toml").read_text()
    assert "line-length = 120 # wide\nown = [1,2]\n" in text
    assert '[tool.new]\nkey = "made"\n' in text
    assert "title" not in text
    assert (service / "windows.toml").read_bytes() == windows(TOML.replace("100", "120")).encode()
    assert (service / "p.yaml").read_text() == YAML.replace("old", "new")
    assert 'p.toml: set tool.other.flag to "theirs", if you like: you have true there' in said
    assert "none.yaml: set a to 1, wherever you have it: there is no such file" in said


def set_keys(folder: Path, *command: str, **edit: object) -> subprocess.CompletedProcess[str]:
    script = [*(command or (sys.executable,)), str(ROOT / "migrations/keys.py"), json.dumps([edit])]
    return subprocess.run(script, cwd=folder, capture_output=True, text=True, check=True)


def test_a_key_that_is_set_stays_so(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TOML)
    edit = {"path": "p.toml", "key": ["tool", "ruff", "line-length"], "value": 120, "was": 100}
    first = set_keys(tmp_path, **edit)
    after = (tmp_path / "p.toml").read_text()
    second = set_keys(tmp_path, **edit)
    assert (first.stderr, second.stderr, (tmp_path / "p.toml").read_text()) == ("", "", after)


def test_a_file_whose_style_would_change_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a:\n- b: 1\n")
    said = set_keys(tmp_path, path="p.yaml", key=["a", 0, "b"], value=2, was=1).stderr
    assert "p.yaml: set a.0.b to 2, by hand" in said
    assert (tmp_path / "p.yaml").read_text() == "a:\n- b: 1\n"


@pytest.mark.slow
def test_uv_brings_the_parsers_that_copier_has_not(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TOML)
    uv = (sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--script")
    set_keys(tmp_path, *uv, path="p.toml", key=["title"], value="y", was="x")
    assert 'title = "y"  # a title' in (tmp_path / "p.toml").read_text()


def test_without_uv_and_parsers_the_owner_is_told_what_to_set(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules |= {'tomlkit': None, 'ruamel.yaml': None}\n"
        "from migrations.releases import Key\nimport migrations.run as run\n"
        "run.find_spec = lambda name: None\nrun.set_keys([Key('{package}.toml', ('a', 'b'), 1)], 'orders')"
    )
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "orders.toml: set a.b to 1 by hand" in ended.stderr
