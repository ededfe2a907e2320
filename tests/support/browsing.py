"""A browser for tests of pages: Debian's Chromium, driven by Playwright, and axe-core's rules of accessibility."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
"""WCAG 2.1, level AA."""


@contextmanager
def chromium() -> Iterator:
    """A running browser."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        expect.set_options(timeout=30_000)
        yield browser
        browser.close()


def violations(page) -> list[str]:
    """What axe-core finds wrong in a page, with the first place of each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{rule['id']}: {rule['nodes'][0]['html'][:200]} ({len(rule['nodes'])} places)" for rule in found]
