"""Go modules that tests need: programs, built once for all runs, and files."""

from __future__ import annotations

import functools
import json
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


@functools.cache
def module(path: str, version: str) -> Path:
    """Return the folder of a module's files, which Go has fetched and compared with what all the world gets."""
    if not shutil.which("go"):
        missing(f"go is not there, which {path} is fetched with")
    command = ["go", "mod", "download", "-json", f"{path}@{version}"]
    # Not here: a go.mod above would have a say.
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=600)
    answer = json.loads(done.stdout or "{}")
    if "Dir" not in answer:
        missing(f"{path}@{version} cannot be fetched: {answer.get('Error') or done.stderr}")
    return Path(answer["Dir"])
