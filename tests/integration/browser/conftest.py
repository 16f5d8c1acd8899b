"""One browser for the tests of a module, and a network before the server that each of them has."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from kit.browser import CHROMIUM, QUIET, Relay


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def relay(server: httpx2.Client) -> Iterator[Relay]:
    relay = Relay((server.base_url.host, server.base_url.port or 80))
    yield relay
    relay.close()
