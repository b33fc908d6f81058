"""A service's own load file, run by its own target while something else happens."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.pages import below, end

TOTAL = re.compile(r"^\s*Aggregated\s+(\d+)\s+(\d+)\(", re.MULTILINE)
# Longer than anything here takes: the load is stopped, it does not end.
LONGEST = 7200


@dataclass(frozen=True)
class Result:
    """What locust has counted.

    Attributes:
        requests: that were made.
        failures: among them.
        output: all that was printed, the failures' reasons included.
    """

    requests: int
    failures: int
    output: str


class Load:
    """Load by `make load`, from now until it is stopped.

    Args:
        service: the folder of the service.
        host: its address.
        users: at once.
        environment: of make.
    """

    def __init__(self, service: Path, host: str, users: int, environment: Mapping[str, str]) -> None:
        self._log = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115
        command = ["make", "--no-print-directory", "load", f"HOST={host}", f"USERS={users}", f"SECONDS={LONGEST}"]
        self._make = subprocess.Popen(
            command, cwd=service, env=dict(environment), stdout=self._log, stderr=subprocess.STDOUT
        )

    def output(self) -> str:
        """Return what has been printed so far."""
        return Path(self._log.name).read_text(errors="replace")

    def running(self) -> bool:
        """Say whether it goes on."""
        return self._make.poll() is None

    def stop(self) -> Result:
        """Stop it as Ctrl-C would, and return what it has counted.

        Raises:
            AssertionError: with its output, where it had ended by itself or counts nothing.
        """
        assert self.running(), f"the load has ended by itself:\n{self.output()}"
        for process in below(self._make):
            if "locust" in " ".join(process.cmdline()) and not process.children():
                process.send_signal(signal.SIGINT)
        try:
            self._make.wait(60)
        finally:
            end(self._make)
        output = self.output()
        totals = TOTAL.findall(output)
        assert totals, f"locust has counted nothing:\n{output}"
        requests, failures = totals[-1]
        return Result(int(requests), int(failures), output)

    def close(self) -> None:
        """End it, however it is, and forget its output."""
        end(self._make)
        self._log.close()


def tools(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with this environment's tools first, uv among them."""
    return {**environment, "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
