"""The service that is measured: rendered from this checkout, and installed beside the usual assembly's packages.

One environment serves all rows, so that they run on the same versions and differ by their stack only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements" / "bench.txt"
NAME = "order-service"
ANSWERS = {
    "service_name": NAME,
    "service_description": "Takes orders and tells how they fare",
    "author_name": "Marty",
    "author_email": "marty@example.com",
    "service_kind": "fastapi",
    "marty_lib_source": str(ROOT / "lib"),
}
GIT = ["git", "-c", "user.name=Marty", "-c", "user.email=marty@example.com", "-c", "commit.gpgsign=false"]
UNWANTED = ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "LIMIT")
# Settings of the machine must not reach the servers.
PREFIXES = ("OTEL_", "HTTP_", "OPS_", "LOG_", "DRAIN_", "STORAGE_", "COV_")


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child: nothing that changes what is measured, and no proxy on the way."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED and not name.startswith(PREFIXES)}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "GIT_CONFIG_GLOBAL": os.devnull} | variables


def run(*command: str | Path, folder: Path | None = None, variables: Mapping[str, str] | None = None) -> str:
    """Run a command; return what it says, or end with what it said.

    Raises:
        SystemExit: where the command fails.
    """
    # Installers do need the proxy of the machine, which `environment` leaves in place.
    done = subprocess.run(
        command, cwd=folder, env=environment(**(variables or {})), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"bench: this step failed: {' '.join(map(str, command[:6]))}\n{done.stdout}{done.stderr}")
    return done.stdout


def commit(folder: Path) -> None:
    """Make a folder a repository with one commit, packed, as it is cloned from where repositories are hosted."""
    run(*GIT, "init", "--quiet", folder=folder)
    run(*GIT, "add", "--all", folder=folder)
    run(*GIT, "commit", "--quiet", "--no-verify", "--message=Template", folder=folder)
    run(*GIT, "gc", "--quiet", folder=folder)


def export(folder: Path) -> Path:
    """Copy what this checkout would commit, and commit it; return the copy."""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    commit(folder)
    return folder


def copy(template: Path, target: Path, answers: Mapping[str, str]) -> None:
    """Render a template with Copier."""
    data = [f"--data={name}={value}" for name, value in answers.items()]
    flags = ["--quiet", "--trust", "--defaults", "--overwrite", "--vcs-ref=HEAD"]
    run(sys.executable, "-W", "ignore", "-m", "copier", "copy", *flags, *data, template, target)


def install(folder: Path, service: Path) -> Path:
    """Make an environment with the service in it; return its Python.

    Raises:
        SystemExit: where the versions are not locked yet.
    """
    if not REQUIREMENTS.exists():
        sys.exit("bench: requirements/bench.txt is missing: run `make lock`")
    python = folder / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--no-project", "--python", sys.executable, folder)
    run(*pip, "--require-hashes", "--requirement", REQUIREMENTS)
    run(*pip, "--no-deps", "--editable", ROOT / "lib")
    add(python, service)
    return python


def add(python: Path, service: Path) -> None:
    """Install one more service into the environment, whose packages stay as they are."""
    pip = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python)
    run(*pip, "--no-deps", "--editable", service)
