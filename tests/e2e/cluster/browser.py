"""The browser of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, Playwright

from tests.servers.requirement import missing

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Page]:
    """Yield an empty page of the distribution's Chromium, or of Chrome."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None) or missing(f"none of {BROWSERS} is on the PATH")
    # Whoever is root has no sandbox; the pages are our own.
    with playwright.chromium.launch(executable_path=program, chromium_sandbox=bool(os.getuid())) as browser:
        # High: what is out of sight Grafana does not draw.
        yield browser.new_page(viewport={"width": 1600, "height": 2400})
