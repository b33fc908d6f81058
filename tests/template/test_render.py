"""What is rendered: complete, clean, typed, the same each time, and with tests that pass."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from pytest_copie.plugin import Copie

from extensions.kinds import KINDS as FEATURES
from tests.conftest import ANSWERS, HOSTILE, KINDS, MESHES, ROOT, Render, make

everything = pytest.mark.parametrize(("kind", "mesh"), [(kind, mesh) for kind in KINDS for mesh in MESHES])
every_kind = pytest.mark.parametrize("kind", KINDS)
# All that the mesh may change.
OF_THE_MESH = ("k8s/", "docs/ARCHITECTURE.md", ".copier-answers.yml")
# Workflows have expressions of their own, and so has Go's text/template nowhere else.
JINJA = re.compile(r"\{%|%\}|\{#|#\}|(?<!\$)\{\{")


def files(service: Path) -> dict[str, bytes]:
    """Return path and content of what was rendered, without what was installed or made later."""
    made = {
        ".venv",
        ".git",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        "__pycache__",
        "dist",
        "uv.lock",
        ".coverage",
    }
    found = (path.relative_to(service) for path in service.rglob("*") if path.is_file())
    found = (path for path in found if path.parts[:1] != ("src",) or "v1" not in path.parts)
    return {str(path): (service / path).read_bytes() for path in found if not made.intersection(path.parts)}


@everything
def test_no_jinja_is_left(render: Render, kind: str, mesh: str) -> None:
    service = render(service_kind=kind, mesh=mesh)
    found = files(service).items()
    # The auth service's pages are templates of its own.
    left = {name for name, content in found if JINJA.search(content.decode()) and "/api/templates/" not in name}
    assert not left | {name for name, _ in found if ".jinja" in name}


@everything
def test_two_renders_are_byte_equal(copie: Copie, template: Path, render: Render, kind: str, mesh: str) -> None:
    again = copie.copy(extra_answers={**ANSWERS, "service_kind": kind, "mesh": mesh}, template_dir=template)
    assert again.project_dir is not None
    assert files(again.project_dir) == files(render(service_kind=kind, mesh=mesh))


@everything
def test_it_is_formatted_and_free_of_lint(render: Render, kind: str, mesh: str) -> None:
    service = render(service_kind=kind, mesh=mesh)
    for command in (["format", "--check"], ["check"]):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
            cwd=service,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
@every_kind
def test_its_own_checks_and_tests_pass(installed: Render, kind: str) -> None:
    make(installed(service_kind=kind), "lint", "typecheck", "test", "PYTEST_FLAGS=--cov")


@everything
def test_the_mesh_changes_no_code_so_that_the_same_checks_and_tests_pass(render: Render, kind: str, mesh: str) -> None:
    def code(service: Path) -> dict[str, bytes]:
        return {name: content for name, content in files(service).items() if not name.startswith(OF_THE_MESH)}

    assert code(render(service_kind=kind, mesh=mesh)) == code(render(service_kind=kind))


@every_kind
def test_text_files_end_with_one_line_break(render: Render, kind: str) -> None:
    wrong = [
        name
        for name, content in files(render(service_kind=kind)).items()
        if content and (not content.endswith(b"\n") or content.endswith(b"\n\n") or b"\n\n\n\n" in content)
    ]
    assert not wrong


@every_kind
def test_no_line_ends_with_a_space(render: Render, kind: str) -> None:
    rendered = files(render(service_kind=kind, mesh="istio")) | files(render(service_kind=kind, mesh="linkerd"))
    wrong = [name for name, content in rendered.items() if re.search(rb"[ \t]$", content, re.MULTILINE)]
    assert not wrong


def test_no_empty_folder_or_file_is_rendered(render: Render) -> None:
    for kind in KINDS:
        service = render(service_kind=kind)
        empty = [path for path in service.rglob("*") if path.is_dir() and not any(path.iterdir())]
        assert not [path for path in empty if ".venv" not in path.parts]
        bare = [name for name, content in files(service).items() if not content and not name.endswith("__init__.py")]
        assert not bare


def test_a_kind_without_grpc_has_nothing_of_it(render: Render) -> None:
    for kind in ("fastapi", "minimal"):
        text = {name: content.decode() for name, content in files(render(service_kind=kind, mesh="istio")).items()}
        assert not [name for name in text if "rpc/" in name or "proto/" in name or name == "hatch_build.py"]
        assert not [name for name, content in text.items() if re.search(r"grpc|protobuf|rpc/", content, re.IGNORECASE)]


def test_a_kind_without_http_has_nothing_of_it(render: Render) -> None:
    text = {name: content.decode() for name, content in files(render(service_kind="minimal", mesh="istio")).items()}
    assert not [name for name in text if "/api/" in name or "/storage/" in name]
    assert not [
        name for name, content in text.items() if re.search(r"fastapi|openapi|has_http", content, re.IGNORECASE)
    ]


@every_kind
def test_every_answer_reaches_its_places(render: Render, kind: str) -> None:
    service = render(service_kind=kind, http_port=8123, grpc_port=50123, ops_port=9123, mesh="istio")
    text = {name: content.decode() for name, content in files(service).items()}
    places = {
        "9123": ["src/order_service/config.py", "Dockerfile", "compose.yaml", "README.md", "docs/OBSERVABILITY.md"],
        "shop.example.com": [] if kind == "minimal" else ["k8s/components/istio"],
        "registry.example.com/shop": ["Makefile", "README.md", "compose.yaml", "k8s/overlays/"],
        'namespace: "shop"': ["k8s/overlays/production", "k8s/overlays/staging"],
        "Ada Example": ["src/order_service/about.py", "pyproject.toml", "README.md", "Dockerfile"],
        "ada@example.com": ["src/order_service/about.py", "pyproject.toml", "README.md", "Dockerfile"],
        "Takes orders": ["src/order_service/about.py", "pyproject.toml", "README.md", "Dockerfile", "k8s/base/"],
        f"Copyright {datetime.now(UTC).year}": ["README.md"],
    }
    everywhere = ["src/order_service/config.py", "Dockerfile", "compose.yaml", "README.md", "k8s/base/"]
    if "http" in FEATURES[kind]:
        places["8123"] = [*everywhere, "Makefile"]
    if "grpc" in FEATURES[kind]:
        places["50123"] = [*everywhere, "docs/LOCAL_DEVELOPMENT.md", "tests/load/", "k8s/components/istio"]
    for answer, names in places.items():
        for name in names:
            assert any(answer in content for path, content in text.items() if path.startswith(name)), (answer, name)


@every_kind
def test_a_default_leaks_nowhere_where_another_answer_was_given(render: Render, kind: str) -> None:
    ports = {"http_port": 8123, "grpc_port": 50123, "ops_port": 9123}
    service = render(service_kind=kind, mesh="linkerd", marty_lib_source="", **ports)
    for name, content in files(service).items():
        assert not re.search(r"\b(8000|9000|50051)\b|ghcr\.io/example\b", content.decode()), name


class TestHostileText:
    """Any printable text survives in every format."""

    @pytest.fixture
    def service(self, render: Render) -> Path:
        return render(service_description=HOSTILE, author_name=HOSTILE, mesh="istio")

    def test_in_python(self, service: Path) -> None:
        tree = ast.parse((service / "src/order_service/about.py").read_text())
        values = [
            node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        ]
        assert values.count(HOSTILE) == 2

    def test_in_python_as_the_formatter_would_write_it(self, service: Path) -> None:
        command = [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "src"]
        assert subprocess.run(command, cwd=service, check=False).returncode == 0

    def test_in_toml(self, service: Path) -> None:
        project = tomllib.loads((service / "pyproject.toml").read_text())["project"]
        assert (project["description"], project["authors"][0]["name"]) == (HOSTILE, HOSTILE)

    def test_in_yaml(self, service: Path) -> None:
        for file in (service / "k8s/base").glob("*.yaml"):
            list(yaml.safe_load_all(file.read_text()))
        assert HOSTILE in yaml.safe_load((service / ".copier-answers.yml").read_text())["author_name"]
        manifests = [doc for file in (service / "k8s").rglob("*.yaml") for doc in yaml.safe_load_all(file.read_text())]
        assert json.dumps(HOSTILE) in json.dumps(manifests)

    def test_in_markdown(self, service: Path) -> None:
        assert HOSTILE in shown((service / "README.md").read_text())

    @pytest.mark.slow
    def test_in_json(self, installed: Render) -> None:
        service = installed(service_description=HOSTILE, author_name=HOSTILE, mesh="istio")
        program = (
            "import json; from marty_lib.testing import client_of; from order_service.app import create_app;"
            "from order_service.config import Settings; import asyncio\n"
            "async def main():\n"
            "    async with client_of(create_app(Settings())) as client:\n"
            "        print((await client.get('/openapi.json')).text)\n"
            "asyncio.run(main())"
        )
        python = service / ".venv" / "bin" / "python"
        printed = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True).stdout
        info = json.loads(printed.splitlines()[0])["info"]
        assert (info["description"], info["contact"]["name"]) == (HOSTILE, HOSTILE)


def shown(markdown: str) -> str:
    """Return the text that a reader of the rendered Markdown sees."""
    tokens = MarkdownIt("commonmark").parse(markdown)
    return "\n".join(
        "".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"
    )


def test_the_year_is_an_answer_so_that_it_never_changes_by_itself(render: Render) -> None:
    answers = yaml.safe_load((render() / ".copier-answers.yml").read_text())
    assert answers["copyright_year"] == str(datetime.now(UTC).year)
    later = render(copyright_year="2019")
    assert "Copyright 2019" in (later / "README.md").read_text()


def test_the_requirement_of_the_library_follows_its_version(render: Render) -> None:
    version = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]["version"]
    major, minor, _ = version.split(".")
    project = tomllib.loads((render() / "pyproject.toml").read_text())["project"]
    assert f"marty-lib[ops,http,tracing]>={major}.{minor},<{int(major) + 1}" in project["dependencies"]


def test_template_and_library_have_one_version() -> None:
    library = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]["version"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == library
    assert f"## {library} " in (ROOT / "CHANGELOG.md").read_text()
