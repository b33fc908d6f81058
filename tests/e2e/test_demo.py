"""What the README promises a stranger, typed as the README says it, on a fresh copy in a path with spaces."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from marty_lib.testing import ServiceProcess, free_ports, status

from tests.conftest import ROOT, Render
from tests.updates.history import tagged_clone

UNWANTED = {"VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PYTEST_FLAGS", "HTTP_PORT", "OPS_PORT"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone in a folder whose name has spaces."""
    return tagged_clone(tmp_path_factory.mktemp("a stranger's folder") / "marty")


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Make a target as a stranger would, without this environment's own."""
    environment = {name: value for name, value in os.environ.items() if name not in UNWANTED} | variables
    environment["PATH"] = variables.get("PATH") or os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if ".venv" not in folder
    )
    command = [shutil.which("make") or "make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_demo_renders_tests_starts_and_calls_a_service_twice_in_a_row(clone: Path) -> None:
    http, ops = free_ports(2)
    for _ in range(2):
        ended = make(clone, "demo-check", f"HTTP_PORT={http}", f"OPS_PORT={ops}", f"PYTHON={sys.executable}")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert f"http://127.0.0.1:{http}/docs" in ended.stdout
        assert "It stopped cleanly" in ended.stdout
        assert "Traceback" not in ended.stderr
    assert not (clone / "uv.lock").exists()


@pytest.mark.slow
def test_a_busy_port_gets_one_sentence_with_the_remedy(clone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = make(clone, "demo-check", f"HTTP_PORT={port}", f"PYTHON={sys.executable}")
    assert ended.returncode
    assert f"port {port} is taken: stop what uses it, or choose another" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_python_gets_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    ended = make(ROOT, "python", "PYTHON=python-of-nobody")
    assert ended.returncode
    assert "python-of-nobody is missing: install Python 3.11 or newer" in ended.stderr


def test_an_old_python_gets_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ended = make(ROOT, "python", f"PYTHON={old}")
    assert ended.returncode
    assert "is older than 3.11" in ended.stderr


@pytest.mark.slow
def test_a_service_without_uv_says_how_to_get_it(render: Render, tmp_path: Path) -> None:
    for tool in ("sh", "git", "cat", "grep", "awk"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    ended = make(render(), "install", PATH=str(tmp_path))
    assert ended.returncode
    assert "uv is missing: install it" in ended.stderr


def targets(makefile: Path) -> set[str]:
    """Return the targets of a Makefile that are for people."""
    return set(re.findall(r"^([a-z][a-z0-9-]*):.*## ", makefile.read_text(), re.MULTILINE))


def named(document: Path) -> set[str]:
    """Return the make targets that a document tells to type, in code."""
    code = re.findall(r"^    .*|`[^`]+`", document.read_text(), re.MULTILINE)
    lines = (re.search(r"\bmake ((?:[a-z][a-z0-9-]* ?)+)", line.partition("#")[0]) for line in code)
    return {target for line in lines if line for target in line[1].split()}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/benchmarks.md"])
def test_every_target_in_our_documents_exists(name: str) -> None:
    assert named(ROOT / name) <= targets(ROOT / "Makefile") | {"dev", "settings"}


@pytest.mark.parametrize("kind", ["fastapi", "minimal"])
def test_every_target_in_the_services_documents_exists(render: Render, kind: str) -> None:
    service = render(service_kind=kind)
    documents = [service / "README.md", *(service / "docs").glob("*.md")]
    assert set.union(*map(named, documents)) - {"dev"}
    for document in documents:
        assert named(document) <= targets(service / "Makefile"), document


def test_every_link_in_our_documents_leads_somewhere() -> None:
    for document in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "lib/README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_link_in_the_services_documents_leads_somewhere(render: Render) -> None:
    service = render()
    for document in [service / "README.md", *(service / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_example_in_the_librarys_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "lib/README.md").read_text(), re.DOTALL)
    assert code
    (tmp_path / "hello_readme.py").write_text(code[1])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    service = ServiceProcess("hello_readme")
    try:
        service.wait_ready()
        assert status(f"{service.http}/hello") == 200
        service.terminate()
        assert service.wait() == 0
    finally:
        service.close()
