"""The `curl` of a machine: the documented line that stops a run, and a stream on a terminal."""

import shutil
import subprocess

import anyio
import pytest

from kit.server import app, events_of, serving, storyteller
from softstop import Agent

CURL = shutil.which("curl")
pytestmark = [pytest.mark.server, pytest.mark.skipif(CURL is None, reason="needs curl")]


async def curl(*words: str) -> str:
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(["curl", "--silent", *words], capture_output=True, text=True, timeout=50, check=True)
    )
    return done.stdout


async def test_a_run_is_stopped_by_a_post_that_says_nothing_else() -> None:
    async with serving(app(agents=[Agent(storyteller, name="story-writer-agent")])) as client:
        url = f"http://localhost:{client.base_url.port}"
        start = {"message": "go", "background": True, "stream": False, "run_id": "123"}
        assert (await client.post("/agents/story-writer-agent/runs", json=start)).status_code == 202
        line = ["--location", f"{url}/agents/story-writer-agent/runs/123/cancel", "--request", "POST"]
        assert await curl(*line) == '{"success":true,"status":"CANCELLED"}'
        assert '"code":"RUN_NOT_CANCELLABLE"' in await curl(*line)


async def test_a_stream_is_seen_as_it_comes_to_its_outcome() -> None:
    async with serving(app()) as client:
        body = '{"agent": "quick", "message": "hi", "stream": true}'
        text = await curl("-N", f"http://localhost:{client.base_url.port}/runs", "--json", body)
        assert [event["event"] for event in events_of(text)] == ["RunStarted", "RunContent", "RunCompleted"]
