"""The chat of the examples in a real browser: a story is told, stopped, rejoined after a reload, and left."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kit.browser import MARKS, PATIENCE, Relay
from kit.processes import SRC
from kit.server import free_port, until_answers

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
pytestmark = MARKS

APP = SRC.parent / "examples" / "web_chat" / "app.py"
SENTENCE = "Once upon a time there was a dragon. "
LONG = "a " * 90 + "dragon"  # a story about it takes a quarter of a minute


@pytest.fixture(scope="module")
def server() -> Iterator[httpx2.Client]:
    """The example as its docstring starts it, and a client of its routes."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(APP), str(port)], env={"PYTHONPATH": str(SRC), "PATH": ""})
    try:
        url = f"http://127.0.0.1:{port}"
        until_answers(url)
        with httpx2.Client(base_url=url, timeout=50) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def page(browser: sync_api.Browser, server: httpx2.Client) -> Iterator[sync_api.Page]:
    """The chat as a visitor opens it; nothing may be printed to its console."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(str(server.base_url))
    yield page
    context.close()
    assert said == []


def wait_for(page: sync_api.Page, selector: str, text: str) -> None:
    sync_api.expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def tell_a_long_story(page: sync_api.Page) -> None:
    page.fill("#about", LONG)
    page.click("#send")
    wait_for(page, "#answer", "Once upon")


def run_of(page: sync_api.Page) -> str:
    return str(page.evaluate("sessionStorage.getItem('run')"))


def ended(server: httpx2.Client, run_id: str) -> dict[str, Any]:
    """The run with its outcome. Asks again and again: whoever waits by `/wait` is a reader, for whom a run goes on."""
    for _ in range(300):
        told: dict[str, Any] = server.get(f"/api/runs/{run_id}").json()
        if told["status"] in ("completed", "cancelled", "failed"):
            return told
        time.sleep(0.1)  # noqa: TID251 - the server is another process
    raise AssertionError(f"still {told['status']}")


def test_a_story_is_told_to_its_end(page: sync_api.Page, server: httpx2.Client) -> None:
    page.click("#send")
    wait_for(page, "#state", "The end.")
    assert page.inner_text("#answer").count(SENTENCE) == 3
    assert ended(server, run_of(page))["content"] == page.text_content("#answer")


def test_stop_ends_the_story_at_once_and_what_was_written_stays(page: sync_api.Page, server: httpx2.Client) -> None:
    tell_a_long_story(page)
    page.click("#stop")
    wait_for(page, "#state", "Stopped.")
    text = page.text_content("#answer") or ""
    assert text.startswith("1. Once upon")
    assert "3. " not in text
    assert page.is_disabled("#stop")
    assert page.is_enabled("#send")
    told = ended(server, run_of(page))
    assert (told["status"], told["content"]) == ("cancelled", text)
    assert told["stop"]["reason"] == "Stop was pressed"


def test_a_reload_rejoins_the_story_and_nothing_is_lost_or_told_twice(
    page: sync_api.Page, server: httpx2.Client
) -> None:
    page.click("#send")
    wait_for(page, "#answer", "the river")
    run_id = run_of(page)
    with server.stream("GET", f"/api/runs/{run_id}/events"):  # a busy machine may reload for longer than the run waits
        page.reload()
        wait_for(page, "#answer", "the river")
        wait_for(page, "#state", "The end.")
    assert run_of(page) == run_id
    assert page.text_content("#answer") == ended(server, run_id)["content"]


def test_a_dropped_connection_is_taken_up_where_it_was(
    browser: sync_api.Browser, server: httpx2.Client, relay: Relay
) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{relay.port}")
    tell_a_long_story(page)
    run_id = run_of(page)
    with server.stream("GET", f"/api/runs/{run_id}/events"):  # a busy machine may be too late for the run
        before = relay.cut()
        wait_for(page, "#state", "The end.")
    assert relay.connections > before
    assert page.text_content("#answer") == ended(server, run_id)["content"]


def test_leave_stops_the_run_by_a_beacon_of_a_page_that_is_gone(page: sync_api.Page, server: httpx2.Client) -> None:
    tell_a_long_story(page)
    run_id = run_of(page)
    page.click("#leave")
    told = ended(server, run_id)
    assert (told["status"], told["stop"]["cause"]) == ("cancelled", "user")


def test_a_run_whose_only_reader_has_gone_is_stopped(page: sync_api.Page, server: httpx2.Client) -> None:
    tell_a_long_story(page)
    run_id = run_of(page)
    page.goto("about:blank")
    told = ended(server, run_id)
    assert (told["status"], told["stop"]["cause"]) == ("cancelled", "caller_gone")


def test_what_is_asked_and_told_is_text_and_never_markup(page: sync_api.Page) -> None:
    page.fill("#about", f"<img src=x onerror=alert(1)> {LONG[:150]}")
    page.click("#send")
    wait_for(page, "#answer", "<img src=x onerror=alert(1)>")
    assert page.locator("#answer img").count() == 0
    page.click("#stop")
    wait_for(page, "#state", "Stopped.")


def test_the_page_asks_for_nothing_beyond_its_own_server() -> None:
    for name in ("index.html", "chat.js", "chat.css"):
        text = (Path(APP).parent / "page" / name).read_text("utf-8")
        assert not re.search(r"//\w|innerHTML", text.replace("// ", "")), name
