"""Bad answers: a clear message, a non-zero exit, nothing written."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pytest_copie.plugin import Copie

from tests.conftest import ANSWERS, KINDS, ROOT

EXTENSIONS = ["--with", "jinja2-time", "--with", "copier-template-extensions"]
REQUIRED = ("author_name", "author_email", "service_name")


def copier(destination: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `copier copy --defaults` as a user would, and return how it ended."""
    command = [sys.executable, "-W", "ignore", "-m", "copier", "copy", "--defaults", "--vcs-ref=HEAD", *arguments]
    return run([*command, str(ROOT), str(destination)], cwd=destination.parent, **variables)


def run(command: list[str], cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | variables
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=120, check=False
    )


@cache
def module(name: str) -> dict[str, Any]:
    """Return the names of an extension's module."""
    return runpy.run_path(str(ROOT / "extensions" / f"{name}.py"))


def data(**answers: object) -> list[str]:
    """Return `--data` arguments that answer what has no default, and what is given."""
    known = {name: ANSWERS[name] for name in REQUIRED}
    return [f"--data={name}={value}" for name, value in (known | answers).items()]


BAD: dict[str, list[object]] = {
    "service_name": [
        "",
        "ab",
        "a" * 41,
        "Orders",
        "9lives",
        "-orders",
        "orders-",
        "or_ders",
        "class",
        "json",
        "fastapi",
        "null",
        "yes",
    ],
    "service_description": ["", " spaced ", "x" * 201, "two\nlines", "tab\there"],
    "author_name": ["", "Ada\x07"],
    "author_email": ["", "ada", "ada@localhost", "a b@example.com"],
    "http_port": [0, 80, 1023, 65536, "web"],
    "ops_port": [-1, 443, 70000],
    "namespace": ["", "Shop", "kube-system", "a_b", "x" * 64, "-a"],
    "domain": ["", "localhost", "https://example.com", "example..com", "Example.com", "example.com/path"],
    "image_registry": ["", "https://ghcr.io/org", "GHCR.io", "ghcr.io/org:latest/", "ghcr.io//org"],
    "service_kind": ["rest"],
    "mesh": ["consul"],
    "python_version": ["3.10", "2.7"],
}


@pytest.mark.parametrize(
    ("question", "answer"), [(name, answer) for name, answers in BAD.items() for answer in answers]
)
def test_a_bad_answer_is_refused(copie: Copie, template: Path, question: str, answer: object) -> None:
    result = copie.copy(extra_answers={**ANSWERS, question: answer}, template_dir=template)
    assert isinstance(result.exception, ValueError | TypeError)
    assert question in str(result.exception) or repr(answer) in str(result.exception)


def test_equal_ports_are_refused(copie: Copie, template: Path) -> None:
    result = copie.copy(extra_answers={**ANSWERS, "http_port": 9000, "ops_port": 9000}, template_dir=template)
    assert "9000 is already the answer to http_port" in str(result.exception)


def test_a_port_that_no_kind_uses_may_be_taken(copie: Copie, template: Path) -> None:
    answers = {**ANSWERS, "service_kind": "minimal", "ops_port": 8000}
    assert copie.copy(extra_answers=answers, template_dir=template).exit_code == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"service_name": "class"}, "'class' is a Python keyword: choose another name, such as class-service."),
        ({"service_name": "Orders"}, "use lower-case letters, digits and hyphens"),
        ({"http_port": "80"}, "80 is no port: use a whole number from 1024 to 65535."),
        ({"http_port": "8080", "ops_port": "8080"}, "8080 is already the answer to http_port: choose another port."),
        ({"ops_port": "8000"}, "8000 is already the answer to http_port: choose another port."),
        ({"service_kind": "rest"}, f"'rest' is no choice: use one of {', '.join(KINDS)}."),
    ],
)
def test_an_unattended_run_says_what_to_change_without_a_traceback(
    tmp_path: Path, wrong: dict[str, str], sentence: str
) -> None:
    ended = copier(tmp_path / "new", "--trust", *data(**wrong))
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "new").exists()


def test_all_bad_answers_are_named_at_once(tmp_path: Path) -> None:
    ended = copier(tmp_path / "new", "--trust", *data(service_name="x", http_port=1, domain="nowhere"))
    assert all(name in ended.stderr for name in ("service_name:", "http_port:", "domain:"))


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    ended = copier(tmp_path, "--trust", *data())
    assert ended.returncode == 1
    assert "is not empty (it holds precious.txt)" in ended.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious.txt"]


def test_an_empty_repository_is_a_fine_destination(tmp_path: Path) -> None:
    run(["git", "init", "--quiet", str(tmp_path)])
    assert copier(tmp_path, "--trust", *data()).returncode == 0


def test_without_a_git_identity_it_says_how_to_name_the_author(tmp_path: Path) -> None:
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(tmp_path)}
    ended = copier(tmp_path / "new", "--trust", "--data=service_name=order-service", **nobody)
    assert ended.returncode == 1
    assert 'author_name: It is empty: pass --data author_name="..."' in ended.stderr
    assert "git config --global user.email" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "new").exists()


def test_the_git_identity_is_the_author(tmp_path: Path) -> None:
    somebody = {"GIT_CONFIG_COUNT": "2"}
    for number, (key, value) in enumerate({"user.name": "Grace", "user.email": "grace@example.com"}.items()):
        somebody |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    ended = copier(tmp_path / "my-service", "--trust", **somebody)
    assert ended.returncode == 0, ended.stderr
    answers = yaml.safe_load((tmp_path / "my-service" / ".copier-answers.yml").read_text())
    assert (answers["author_name"], answers["author_email"]) == ("Grace", "grace@example.com")
    assert answers["service_name"] == "my-service"


def test_without_trust_copier_says_to_add_it(tmp_path: Path) -> None:
    ended = copier(tmp_path / "new", *data())
    assert ended.returncode == 4
    assert "--trust" in ended.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_without_the_extension_packages_copier_names_them_and_the_readme_says_what_to_type(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "tool",
        "run",
        "--quiet",
        "--from",
        "copier>=9.15",
        "copier",
        "copy",
        "--trust",
    ]
    ended = run([*command, "--defaults", "--vcs-ref=HEAD", *data(), str(ROOT), str(tmp_path / "new")])
    assert ended.returncode == 1
    assert "install these extensions alongside Copier" in ended.stderr
    assert not (tmp_path / "new").exists()
    readme = (ROOT / "README.md").read_text()
    assert "uv tool install copier --with jinja2-time --with copier-template-extensions" in readme
    assert "Copier could not load some Jinja extensions" in readme


@pytest.mark.slow
@pytest.mark.parametrize(("version", "code"), [("9.14.0", 1), ("9.15.0", 0)])
def test_an_old_copier_is_told_which_version_it_takes(tmp_path: Path, version: str, code: int) -> None:
    command = [
        sys.executable,
        "-m",
        "uv",
        "tool",
        "run",
        "--quiet",
        "--from",
        f"copier=={version}",
        *EXTENSIONS,
        "copier",
    ]
    arguments = ["copy", "--trust", "--defaults", "--vcs-ref=HEAD", *data(), str(ROOT), str(tmp_path / "new")]
    ended = run([*command, *arguments])
    assert ended.returncode == code, ended.stderr
    assert (tmp_path / "new").exists() is (code == 0)
    if code:
        assert "requires Copier version >= 9.15.0" in ended.stderr


def test_the_choices_of_the_questions_are_those_that_the_extensions_know() -> None:
    questions = yaml.safe_load((ROOT / "copier.yml").read_text())
    answers, kinds = module("answers"), module("kinds")
    assert list(questions["service_kind"]["choices"].values()) == list(kinds["KINDS"])
    assert {name: tuple(questions[name]["choices"]) for name in answers["CHOICES"]} == answers["CHOICES"]


@given(st.from_regex(r"[a-z][a-z0-9-]{1,38}[a-z0-9]", fullmatch=True))
def test_every_accepted_name_is_an_importable_package_of_its_own(name: str) -> None:
    package = name.replace("-", "_")
    if not module("answers")["service_name_problem"](name):
        assert package.isidentifier()
        assert package not in sys.stdlib_module_names
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
