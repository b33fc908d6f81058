"""A kind installs what it has, and nothing of what it has not."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from extensions.kinds import EXTRAS, KINDS
from tests.conftest import ROOT, Render
from tests.template.test_build_files import run

pytestmark = pytest.mark.slow

# Distributions, and the features of which one at least must be there for a kind to install them.
BELONGS_TO = {
    "aio-pika": {"broker"},
    "aiormq": {"broker"},
    "aiokafka": {"broker"},
    "aiosqlite": {"database"},
    "alembic": {"database"},
    "asyncpg": {"database"},
    "argon2-cffi": {"identity"},
    "fakeredis": {"redis", "broker"},
    "fastapi": {"http"},
    "grpcio": {"grpc"},
    "opentelemetry-sdk": {"tracing"},
    "redis": {"redis", "broker"},
    "sqlalchemy": {"database"},
    "starlette": {"http"},
}
NEVER = {"copier", "typer", "jinja2-time", "mypy", "pytest", "ruff", "setuptools"}


def installed_in_production(service: Path) -> set[str]:
    """Return the distributions that the image of a service has."""
    command = (sys.executable, "-m", "uv", "export", "--quiet", "--no-dev", "--no-hashes", "--no-emit-project")
    exported = run(*command, cwd=service)
    return set(re.findall(r"^([a-z0-9-]+)==", exported, re.MULTILINE))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_installs_only_what_it_has(installed: Render, kind: str) -> None:
    found = installed_in_production(installed(service_kind=kind))
    assert "prometheus-client" in found
    assert not found & NEVER
    strangers = {name for name in found & BELONGS_TO.keys() if not KINDS[kind] & BELONGS_TO[name]}
    assert not strangers


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_asks_for_the_extras_of_what_it_has(render: Render, kind: str) -> None:
    project = tomllib.loads((render(service_kind=kind) / "pyproject.toml").read_text())["project"]
    asked = re.findall(r"marty-lib\[([a-z0-9,-]+)\]", " ".join(project["dependencies"]))
    offered = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = set(asked[0].split(","))
    assert extras <= offered.keys()
    assert {EXTRAS[feature] for feature in KINDS[kind] & EXTRAS.keys()} <= extras


def test_a_service_has_the_command_among_its_tools(installed: Render) -> None:
    service = installed(service_kind="minimal")
    assert "preview" in run(str(service / ".venv/bin/marty"), "--help", cwd=service)
