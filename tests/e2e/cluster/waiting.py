"""Waiting for what a cluster does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(what: str, fact: Callable[[], T], seconds: float = 120.0, pause: float = 1.0) -> T:
    """Return what a function returns once that is true; what it raises on the way counts as not yet.

    Args:
        what: to say where it never comes true, such as "the alert fires".
        fact: looks.
        seconds: to wait at most.
        pause: between two looks, in seconds.

    Raises:
        AssertionError: with what was seen last.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            seen: T | Exception = fact()
        except Exception as error:
            seen = error
        if seen and not isinstance(seen, Exception):
            return seen
        assert time.monotonic() < ends, f"it is not so after {seconds:g} s that {what}; seen last: {seen!r}"
        time.sleep(pause)
