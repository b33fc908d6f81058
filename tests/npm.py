"""Packages of npm that tests run or read, installed once for all runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers.containers import cache_folder, exclusive
from tests.servers.requirement import missing


def installed(package: str, version: str) -> Path:
    """Return the folder in whose `node_modules` npm has installed a package."""
    if not (shutil.which("npm") and shutil.which("node")):
        missing(f"node and npm are not there, which {package} needs")
    folder = cache_folder() / f"{package.removeprefix('@').replace('/', '-')}-{version}"
    with exclusive(folder):
        if not (folder / "node_modules" / package).exists():
            command = ["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", str(folder)]
            subprocess.run([*command, f"{package}@{version}"], check=True, timeout=300)
    return folder
