"""A rendered service on its way into the cluster: image, registry, overlay."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Service:
    """A service that was rendered for a cluster.

    Attributes:
        folder: where it is; its name is the service's.
        environment: of the commands that are run in it.
    """

    folder: Path
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name, which is its namespace's, too, unless another was answered."""
        return self.folder.name

    @classmethod
    def render(
        cls, folder: Path, template: Path, wheel: Path, environment: Mapping[str, str], **answers: object
    ) -> Service:
        """Render a service, and put the library's wheel where its image takes it from."""
        data = [f"--data={name}={value}" for name, value in {"service_name": folder.name, **answers}.items()]
        options = ["--quiet", "--trust", "--defaults", "--vcs-ref=HEAD"]
        command = [sys.executable, "-W", "ignore", "-m", "copier", "copy", *options, *data, str(template), str(folder)]
        service = cls(folder, environment)
        service.run(*command, where=folder.parent)
        service.vendor(wheel)
        return service

    def vendor(self, wheel: Path) -> None:
        """Put the library's wheel where the image takes it from."""
        (self.folder / "vendor").mkdir(exist_ok=True)
        shutil.copy(wheel, self.folder / "vendor")

    def run(self, *command: str, where: Path | None = None) -> str:
        """Run a command in the service's folder, which must succeed; return what it printed."""
        done = subprocess.run(
            command,
            cwd=where or self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def push(self, tag: str) -> str:
        """Build the image, push it, and return its name."""
        image = f"localhost:5001/{self.name}:{tag}"
        self.run("make", "image", f"TAG={tag}")
        self.run("docker", "push", "--quiet", image)
        return image

    def deploy(self, overlay: str) -> None:
        """Apply an overlay as its owner does."""
        self.run("make", "deploy", f"OVERLAY={overlay}")
