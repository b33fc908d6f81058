"""The package's promises: lazy, layered, small, and every public name where it says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import marty_lib
import pytest

SOURCE = Path(marty_lib.__file__).parent
MODULES = sorted(SOURCE.glob("*.py"))
EXTRAS = {
    "fastapi",
    "starlette",
    "uvicorn",
    "grpc",
    "google",
    "stamina",
    "prometheus_client",
    "opentelemetry",
    "pytest",
    "httpx2",
    "sqlalchemy",
    "alembic",
    "joserfc",
    "aiokafka",
    "aiormq",
    "redis",
    "fakeredis",
    "copier",
    "typer",
}


def imported_by(statement: str) -> set[str]:
    code = f"import sys, json; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", code])))


def imports_of_marty(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "marty_lib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("marty_lib."):
            found.add(str(node.module).removeprefix("marty_lib."))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("marty_lib")}
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "import marty_lib",
        "from marty_lib import ServiceSettings, RequestContext, NotFound, Health",
        "from marty_lib import settings, context, errors, log, health",
    ],
)
def test_no_extra_is_imported_before_it_is_needed(statement: str) -> None:
    assert imported_by(statement) & EXTRAS == set()


def test_importing_the_package_imports_none_of_its_modules() -> None:
    code = "import marty_lib, sys; print(sorted(name for name in sys.modules if name.startswith('marty_lib')))"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "['marty_lib']"


def test_an_application_without_tracing_imports_no_opentelemetry_sdk() -> None:
    modules = "import marty_lib._app, sys; print('opentelemetry' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", modules], text=True).strip() == "False"


@pytest.mark.parametrize("name", marty_lib.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    assert getattr(marty_lib, name).__name__ == name


def test_the_lazy_names_are_the_public_ones() -> None:
    assert dir(marty_lib) == sorted(marty_lib.__all__)


def test_verifying_tokens_imports_no_web_framework() -> None:
    assert not imported_by("import marty_lib.auth") & {"fastapi", "starlette"}


@pytest.mark.parametrize("module", [each for each in MODULES if not each.stem.startswith(("cli", "_cli_"))])
def test_only_the_command_line_knows_copier_and_typer(module: Path) -> None:
    nodes = list(ast.walk(ast.parse(module.read_text())))
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}

    assert not {name.split(".")[0] for name in found} & {"copier", "typer"}
    assert not any(name.startswith(("cli", "_cli_")) for name in imports_of_marty(module))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        marty_lib.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["context", "errors", "settings", "_sections"])
def test_a_module_at_the_bottom_imports_no_other(module: str) -> None:
    assert imports_of_marty(SOURCE / f"{module}.py") <= {"_sections"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_fits_on_250_lines(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 250
