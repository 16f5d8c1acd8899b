"""The quickstart, with the very same code, against a real server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest

from kit.provider import KEY, Provider

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-W", "error", str(ROOT / "examples" / "quickstart.py")]

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]


@pytest.mark.parametrize("protocol", ["openai", "openai-chat", "anthropic"])
async def test_the_quickstart_talks_to_a_real_provider(provider: Provider, protocol: str) -> None:
    script = provider.script(first=40, pace=0.002, calls="save_page", args='{"page": "one"}')
    base_url = provider.url if protocol == "anthropic" else f"{provider.url}/v1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}

    done = await anyio.run_process(
        [*COMMAND, "--model", f"{protocol}:{script}", "--base-url", base_url], env=environment, check=False
    )

    assert done.stderr.decode() == ""
    told = done.stdout.decode()
    assert told.startswith("w0 w1 w2 ")
    assert "w39" in told
    assert "[saving 3 characters ...]\n[stop requested: that is enough for tonight]\n[... saved]\n" in told
    assert "\ncancelled by user: that is enough for tonight\n" in told
    assert "20 tokens in, 41 out" in told
    assert KEY not in told
    assert len(await provider.requests()) == 1


async def test_the_quickstart_is_offline_also_where_a_key_is_in_the_environment() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENAI_API_KEY": "sk-bogus"}

    done = await anyio.run_process([*COMMAND], env=environment, check=False)

    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert "steps: offline completed, save_page completed" in done.stdout.decode()


async def test_the_quickstart_tells_why_it_failed_and_exits_1() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENAI_API_KEY": KEY}
    nobody = ["--model", "openai-chat:m", "--base-url", "http://127.0.0.1:9/v1"]

    done = await anyio.run_process([*COMMAND, *nobody], env=environment, check=False)

    assert done.returncode == 1
    assert "\nfailed \n" in done.stdout.decode()
    assert "Connection error" in done.stderr.decode().splitlines()[-1]
