"""Names and defaults that follow from the answers and from the machine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from copier_template_extensions import ContextHook
from jinja2 import Environment

SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13", "3.14")


class Names(ContextHook):
    """Add names that follow from the service's, the requirement of marty-lib, and two functions for defaults."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals.update(default_service_name=default_service_name, git_identity=git_identity)

    def hook(self, context: dict[str, Any]) -> None:
        name = str(context.get("service_name", ""))
        context["service_package"] = name.replace("-", "_")
        context["service_class"] = "".join(part.capitalize() for part in name.split("-"))
        context["default_python_version"] = default_python_version()
        context["marty_lib_requirement"] = marty_lib_requirement()


def default_service_name(folder: str) -> str:
    """Return the folder's name as a DNS-1123 label, or '' where nothing is left of it."""
    return re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")


@cache
def marty_lib_requirement() -> str:
    """Return the versions of marty-lib that a service of this template runs on, such as `>=1.4,<2`."""
    project = (Path(__file__).parent.parent / "lib" / "pyproject.toml").read_text(encoding="utf-8")
    major, minor, _ = tomllib.loads(project)["project"]["version"].split(".")
    return f">={major}.{minor},<{int(major) + 1}"


def default_python_version() -> str:
    """Return the running Python where it is supported, so that the service runs on this machine at once."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return running if running in SUPPORTED_PYTHONS else SUPPORTED_PYTHONS[-1]


def git_identity(key: str) -> str:
    """Return what git knows under `key`, or '' where it knows nothing."""
    try:
        known = subprocess.run(["git", "config", key], capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return ""
    return known.stdout.strip()
