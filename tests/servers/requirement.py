"""What a test does when a server or a tool that it needs is not on this machine."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test with its reason; under `MARTY_REQUIRE=all`, as in CI, fail it."""
    if os.environ.get("MARTY_REQUIRE") == "all":
        pytest.fail(f"MARTY_REQUIRE=all, but {reason}", pytrace=False)
    pytest.skip(reason)
