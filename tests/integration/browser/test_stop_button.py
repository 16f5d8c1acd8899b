"""The page of the guide to FastAPI in a real browser: it tells a story, and its Stop button stops it."""

from __future__ import annotations

import re

import pytest

from kit.browser import MARKS, PATIENCE
from kit.processes import SRC
from kit.server import process

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
pytestmark = MARKS

GUIDE = SRC.parent / "examples" / "guides" / "stop-button-in-fastapi.md"


def test_the_buttons_of_the_guide_tell_a_story_and_stop_it_between_two_lines(browser: sync_api.Browser) -> None:
    (app,) = re.findall(r"^```python\n(# stop_button\.py\n.*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    serve = "import sys, uvicorn\nuvicorn.run(app, port=int(sys.argv[1]), log_level='error')\n"
    with process(f"{app}\n{serve}") as (_, url):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        printed: list[str] = []
        page.on("console", lambda message: printed.append(message.text))
        page.goto(url)
        story = sync_api.expect(page.locator("#text"))
        page.get_by_role("button", name="Tell").click()
        story.to_contain_text("1. Once upon a time", timeout=PATIENCE)
        page.get_by_role("button", name="Stop").click()
        story.to_contain_text("[cancelled]", timeout=PATIENCE)
        lines = page.inner_text("#text").splitlines()
        page.close()
    assert printed == [], "no icon is missed"
    assert lines[-1] == "[cancelled]"
    assert lines[:-1] == [f"{number}. Once upon a time" for number in range(1, len(lines))]
