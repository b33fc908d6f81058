"""kubectl as a test calls it: as somebody, on the session's Kubernetes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT_SECONDS = 60.0
LOOKS = 8


@dataclass(frozen=True)
class Kubectl:
    """kubectl by a kubeconfig; what it caches stays beside that.

    Args:
        kubeconfig: who it is, and on which server.
        folder: for what it caches, and for kubeconfigs of others.
    """

    kubeconfig: Path
    folder: Path

    def __call__(self, *arguments: str, given: str = "") -> str:
        """Return what it prints; where it fails or warns, the test fails."""
        done = self.run(*arguments, given=given)
        assert (done.returncode, done.stderr) == (0, ""), f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, given: str = "") -> str:
        """Return what it says; where it does not fail, the test does."""
        done = self.run(*arguments, given=given)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Return how it ended, and what it said."""
        return subprocess.run(
            ["kubectl", *arguments],
            env=self.environment(),
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def difference(self, *arguments: str, given: str = "") -> str:
        """Return what applying would change; where kubectl fails, the test fails.

        A controller may write a status between the two looks that kubectl takes, which is no difference the next time.
        """
        for _ in range(LOOKS):
            done = self.run("diff", *arguments, given=given)
            assert done.returncode in (0, 1), done.stderr
            if not done.returncode:
                break
        return done.stdout

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """Return objects."""
        found = json.loads(self("get", *arguments, "--output=json"))
        items: list[dict[str, Any]] = found["items"] if found["kind"] == "List" else [found]
        return items

    def namespace(self, name: str) -> None:
        """Make a namespace, if it is not there."""
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self("apply", "--server-side", "--filename=-", given=json.dumps(manifest))

    def environment(self) -> dict[str, str]:
        """Return the environment that makes every kubectl be this one."""
        return os.environ | {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.folder / "cache")}

    def account(self, name: str, namespace: str) -> Kubectl:
        """Return kubectl as a service account is it, by a token of its own."""
        config = json.loads(self("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
        config["users"][0]["user"] = {"token": self("create", "token", name, f"--namespace={namespace}").strip()}
        file = self.folder / f"{namespace}-{name}"
        file.write_text(json.dumps(config))
        return Kubectl(file, self.folder)


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait until it is true."""
    ends = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < ends, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.1)
