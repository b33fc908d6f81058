"""A small template and a service of it, for the tests of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.updates.small import make_service, make_template


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small template, with its releases tagged."""
    return make_template(tmp_path_factory.mktemp("small") / "template")


@pytest.fixture(scope="session")
def first_release(small_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service at the first release, to be copied."""
    return make_service(small_template, tmp_path_factory.mktemp("small") / "orders")


@pytest.fixture
def service(first_release: Path, tmp_path: Path) -> Path:
    """A service at the first release."""
    return shutil.copytree(first_release, tmp_path / "orders")
