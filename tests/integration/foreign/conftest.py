"""Foreign servers, as processes of their own. No key, no network beyond here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.shop import Shop

KIT = Path(__file__).resolve().parents[2] / "kit"


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """Where a server of tests/kit listens, which is told to end by the end of its stdin."""
    process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def http_shop() -> Iterator[str]:
    """The URL of an MCP server over streamable HTTP."""
    with serving(str(KIT / "mcp_server.py"), "http") as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="session")
def provider_url() -> Iterator[str]:
    """The URL of a provider of models."""
    with serving(str(KIT / "openai_server.py")) as url:
        yield f"{url}/v1"


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    """A real MCP server, over the transport that the test's parameter names."""
    journal = tmp_path / "journal"
    if request.param == "http":
        return Shop(journal, url=request.getfixturevalue("http_shop"))
    return Shop(journal, command=[str(KIT / "mcp_server.py"), "stdio", str(journal)])
