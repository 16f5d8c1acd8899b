"""`EventSource` of a real browser with a stream token: it reads, is cut off, rejoins, and ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from kit.browser import MARKS, PATIENCE, Relay
from kit.processes import SRC
from kit.server import process

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
pytestmark = MARKS

GUIDE = SRC.parent / "examples" / "guides" / "keep-and-serve-runs.md"

# Keys for the caller alone, and an agent that goes on when it is told to: no time passes in it by itself.
SERVER = """
import asyncio, secrets, sys
import uvicorn
from fastapi import FastAPI, Request, Response
from softstop import Agent
from softstop.server import ApiKey, ApiKeys, create_app, mount
from softstop.server.auth import RunTokens

goes_on = {}
asked = []

async def teller(run, message):
    goes_on[run.run_id] = asyncio.Event()
    run.write("before ")
    await goes_on[run.run_id].wait()
    run.write("after")

text, key = ApiKey.new("ann")
server = create_app(agents=[Agent(teller, name="teller")], auth=ApiKeys([key]))
app = FastAPI()

@app.middleware("http")
async def listen(request: Request, call_next):
    if request.url.path.endswith("/events"):
        asked.append(request.headers.get("last-event-id"))
    return await call_next(request)

@app.get("/healthz")
async def healthz():
    return {}

@app.get("/")
async def page():
    return Response("<title>A page</title>", media_type="text/html")

@app.get("/key")
async def key_of():
    return text

@app.post("/expire")
async def expire():  # none that was given is taken any more; new ones last, since a busy machine needs its time
    server.state.service.stream_tokens = RunTokens("stream", 600, secrets.token_bytes(32))

@app.get("/asked")
async def what_was_asked():
    return asked

@app.post("/go/{run_id}")
async def go(run_id: str):
    goes_on[run_id].set()

mount(app, "/", server)
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""

# What a page does: it keeps what comes, and how often the browser has connected.
READ = """([url]) => {
    window.told = []; window.opened = 0; window.refused = 0;
    window.source = new EventSource(url);
    source.onopen = () => { opened += 1 };
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) refused += 1 };
    for (const name of ["RunStarted", "RunContent", "RunCompleted", "RunCancelled"])
        source.addEventListener(name, (event) => told.push([event.lastEventId, name, JSON.parse(event.data).content]));
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[httpx2.Client]:
    with process(SERVER) as (_, url), httpx2.Client(base_url=url, timeout=50) as client:
        yield client


@pytest.fixture
def page(browser: sync_api.Browser, relay: Relay) -> Iterator[sync_api.Page]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://127.0.0.1:{relay.port}")
    yield page
    page.close()


def started(server: httpx2.Client) -> tuple[str, str]:
    """A run, and the key of who has it."""
    server.post("/expire")
    secret: str = server.get("/key").json()
    body = {"agent": "teller", "background": True}
    run = server.post("/runs", json=body, headers={"authorization": f"Bearer {secret}"})
    return run.json()["run_id"], secret


def until(page: sync_api.Page, what: str) -> None:
    page.wait_for_function(what, timeout=PATIENCE)


def told(page: sync_api.Page) -> list[Any]:
    return json.loads(page.evaluate("JSON.stringify(told)"))  # type: ignore[no-any-return]


BEFORE = [["1", "RunStarted", None], ["2", "RunContent", "before "]]
AFTER = [["3", "RunContent", "after"], ["4", "RunCompleted", "before after"]]


def test_a_page_without_a_key_reads_is_cut_off_rejoins_by_itself_and_asks_no_more_after_the_outcome(
    page: sync_api.Page, server: httpx2.Client, relay: Relay
) -> None:
    run_id, secret = started(server)
    path = f"/runs/{run_id}/events"
    token = server.post(f"{path}/token", headers={"authorization": f"Bearer {secret}"}).json()["token"]
    before = len(server.get("/asked").json())
    page.evaluate(READ, [f"{path}?token={token}"])
    until(page, "told.length === 2")
    relay.cut()
    until(page, "opened === 2")
    assert told(page) == BEFORE, "nothing is told twice"
    server.post(f"/go/{run_id}")
    until(page, "refused === 1")
    assert told(page) == BEFORE + AFTER
    assert server.get("/asked").json()[before:] == [None, "2", "4"], "the last one is told that nothing is left"
    assert page.evaluate("opened") == 2


def guided(page: sync_api.Page, secret: str) -> None:
    """Give a page the function of the guide, and somewhere to tell."""
    (follow,) = re.findall(r"```js\n(async function follow.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    page.evaluate("([code, key]) => { window.secret = key; window.told = []; window.follow = eval(`(${code})`) }",
                  [follow, secret])  # fmt: skip


FOLLOW = "([id]) => { follow(id, (event) => told.push(event && [event.event, event.content])) }"


def test_the_guide_s_own_lines_get_a_new_token_where_theirs_has_expired_and_go_on_where_they_were(
    page: sync_api.Page, server: httpx2.Client, relay: Relay
) -> None:
    run_id, secret = started(server)
    guided(page, secret)
    page.evaluate(FOLLOW, [run_id])
    until(page, "told.length === 1")
    server.post("/expire")
    relay.cut()
    server.post(f"/go/{run_id}")
    until(page, "told.length === 3")
    assert told(page) == [["RunContent", "before "], ["RunContent", "after"], ["RunCompleted", "before after"]]


def test_the_guide_s_own_lines_ask_again_for_a_token_that_they_do_not_get_but_not_for_ever(
    page: sync_api.Page, server: httpx2.Client
) -> None:
    run_id, secret = started(server)
    server.post(f"/go/{run_id}")
    guided(page, secret)
    page.evaluate("window.setTimeout = (again, _, ...given) => queueMicrotask(() => again(...given))")
    answers: list[str] = ["broken", "busy"]
    refused: list[str] = []

    def refuse(route: sync_api.Route) -> None:
        refused.append(answers.pop(0) if answers else "broken")
        if refused[-1] == "busy":
            route.fulfill(status=503)
        else:
            route.abort()

    page.route("**/events/token", refuse, times=2)
    page.evaluate(FOLLOW, [run_id])
    until(page, "told.length === 3")
    assert refused == ["broken", "busy"]
    page.route("**/events/token", refuse)
    page.evaluate(FOLLOW, [run_id])
    until(page, "told.length === 4")
    assert told(page)[-1] is None
    assert len(refused) == 2 + 61
