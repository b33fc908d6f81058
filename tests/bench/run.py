"""Measures what Marty costs, one suite a subject: `make bench`, or `python -m tests.bench.run`.

Whatever is compared runs side by side and takes turns; see docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from . import (
    report,
    suite_cache,
    suite_database,
    suite_events,
    suite_fleet,
    suite_grpc,
    suite_http,
    suite_ratelimit,
    suite_start,
    suite_update,
)
from .plan import QUICK, Plan
from .servers import step
from .setting import Setting

SUITES: dict[str, Callable[[Setting, Plan], str]] = {
    "http": suite_http.measure,
    "grpc": suite_grpc.measure,
    "database": suite_database.measure,
    "cache": suite_cache.measure,
    "ratelimit": suite_ratelimit.measure,
    "events": suite_events.measure,
    "start": suite_start.measure,
    "update": suite_update.measure,
    "fleet": suite_fleet.measure,
}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=SUITES, help="measure this suite; may be given again")
    parser.add_argument("--quick", action="store_true", help="see only that everything runs; the figures mean nothing")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/benchmarks.md")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick gives no figures to write")
    if not sys.platform.startswith("linux"):
        sys.exit("bench: it reads /proc and pins processes to CPUs: run it on Linux")
    with tempfile.TemporaryDirectory(prefix="marty-bench-") as folder, ExitStack() as stack:
        setting = Setting(Path(folder), stack)
        for name in options.only or SUITES:
            step(f"Measuring {name}")
            text = SUITES[name](setting, QUICK if options.quick else Plan())
            print(f"\n## {name}\n\n{text}", flush=True)
            if options.write:
                report.write(name, text)


if __name__ == "__main__":
    # The temporary folder and the servers must not stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
