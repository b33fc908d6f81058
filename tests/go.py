"""Programs of Go modules that tests run, built once for all runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.servers.containers import cache_folder, exclusive
from tests.servers.requirement import missing


def program(package: str, version: str) -> Path:
    """Return a program that Go has built from a package of a module, such as `example.com/module/cmd`."""
    if not shutil.which("go"):
        missing(f"go is not there, which {package} is built with")
    folder = cache_folder() / f"{package.replace('/', '-')}-{version}"
    built = folder / package.rpartition("/")[2]
    with exclusive(folder):
        if not built.exists():
            environment = os.environ | {"GOBIN": str(folder), "GOFLAGS": "-mod=mod"}
            subprocess.run(["go", "install", f"{package}@{version}"], env=environment, check=True, timeout=600)
    return built
