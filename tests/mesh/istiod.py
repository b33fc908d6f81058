"""Istio's own code as a program: what it refuses, and what it would send to the proxy of each pod.

`python -m tests.mesh.istiod` builds it, so that no test has to wait for it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.manifests.crds import pinned
from tests.servers.containers import cache_folder, exclusive, run
from tests.servers.requirement import missing

SOURCE = Path(__file__).with_name("istio")
# What is built is run a few times and never debugged: nothing is optimized, and a cold build takes half the time.
FLAGS = ("-mod=readonly", "-ldflags=-s -w", "-gcflags=all=-N -l -dwarf=false")
NEEDED = "building Istio's code needs Go 1.26 or newer: it is not on the PATH"

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What Istio makes of some objects.

    Attributes:
        refused: what istiod's webhook refuses, by Kind/namespace/name, and why.
        warned: what it lets pass with a warning.
        proxies: listeners, routes, clusters and endpoints of each pod's proxy, by namespace/name.
    """

    refused: dict[str, str]
    warned: dict[str, str]
    proxies: dict[str, Json]


def ask(objects: list[Json]) -> Answer:
    """Return what Istio makes of these objects of Kubernetes and Istio; an IstioOperator gives the mesh's settings."""
    program = built()
    if program is None:
        missing(NEEDED)
    # It has the version of its proxies decide what they are told.
    command = [str(program), pinned("ISTIO_VERSION"), pinned("GATEWAY_API_VERSION")]
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Answer(**json.loads(done.stdout))


@functools.cache
def built() -> Path | None:
    """Return the program, built once for each state of its sources; nothing without Go."""
    sources = b"".join((SOURCE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    program = cache_folder() / f"istio-{hashlib.sha256(sources).hexdigest()[:12]}"
    with exclusive(program):
        if not program.exists():
            if shutil.which("go") is None:
                return None
            build(program)
    return program


def build(program: Path) -> None:
    """Have Go fetch what is needed and compile it; half a program is never left."""
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder, "istio")
        environment = os.environ | {"CGO_ENABLED": "0"}
        run("go", "build", f"-C={SOURCE}", *FLAGS, f"-o={made}", ".", environment=environment)
        made.rename(program)


if __name__ == "__main__":
    if built() is None:
        raise SystemExit(NEEDED)
