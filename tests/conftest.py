"""What every test of the template needs: a render for each set of answers, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_copie.plugin import Copie

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("fastapi", "grpc", "hybrid", "database", "caching", "message-queue", "auth", "minimal")
MESHES = ("none", "istio", "linkerd")
HOSTILE = r"""Bob's "<A&B>" {{ x }} {% y %} # \n: - é 你好 🚀"""
ANSWERS = {
    "service_name": "order-service",
    "service_description": "Takes orders and tells how they fare",
    "author_name": "Ada Example",
    "author_email": "ada@example.com",
    "image_registry": "registry.example.com/shop",
    "domain": "shop.example.com",
    "namespace": "shop",
    "marty_lib_source": str(ROOT / "lib"),
}

Render = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def types_of_packages_are_read_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All services that this worker checks have the same packages: mypy's cache of them is shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPY_CACHE_DIR", str(tmp_path_factory.mktemp("mypy")))
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as it stands in the working tree, without its history: Copier need not clone it."""
    folder = tmp_path_factory.mktemp("template")
    for name in ("copier.yml", "template", "extensions", "migrations", "lib/pyproject.toml"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


@pytest.fixture(scope="session")
def render(copie_session: Copie, template: Path) -> Render:
    """Return a function that renders a service; answers are given by name, the others are `ANSWERS`."""
    made: dict[tuple[tuple[str, object], ...], Path] = {}

    def render(**answers: object) -> Path:
        key = tuple(sorted(answers.items()))
        if key not in made:
            result = copie_session.copy(extra_answers={**ANSWERS, **answers}, template_dir=template)
            assert result.exit_code == 0, result.exception
            assert result.project_dir is not None
            made[key] = result.project_dir
        return made[key]

    return render


@pytest.fixture(scope="session")
def installed(render: Render) -> Render:
    """Return a function that renders a service and installs it into its own environment."""

    def install(**answers: object) -> Path:
        service = render(**answers)
        if not (service / ".venv").exists():
            make(service, "install")
        return service

    return install


def make(service: Path, *arguments: str) -> str:
    """Make targets of a rendered service with the tools of this environment; return what was printed."""
    unwanted = {"VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PYTEST_FLAGS", "COV_CORE_SOURCE"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {name: value for name, value in environment.items() if name not in unwanted}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["make", "--no-print-directory", *arguments]
    ended = subprocess.run(command, cwd=service, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
