"""A real MCP server, as one test sees it: sessions with it, and its journal."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from kit.foreign import gone


@dataclass
class Session:
    """An MCP session that knows its server's tools."""

    mcp: ClientSession
    book: str
    paying: anyio.Event  # set when the server has begun a payment

    async def call(self, tool: str, **arguments: Any) -> str:
        result = await self.mcp.call_tool(tool, {"book": self.book, **arguments}, progress_callback=self._progress)
        return str(getattr(result.content[0], "text", result))

    async def release(self) -> None:
        """Let the payment go on; the session may be closed before the answer to this is there."""
        with suppress(MCPError):
            await self.call("release")

    async def _progress(self, done: float, total: float | None, message: str | None) -> None:
        self.paying.set()


@dataclass
class Shop:
    """An MCP server over one transport, and its journal."""

    journal: Path
    url: str | None = None
    command: Sequence[str] = ()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Session]:
        """A session, as an application opens one."""
        if self.url is not None:
            transport = streamable_http_client(f"{self.url}?journal={self.journal}")
        else:
            transport = stdio_client(StdioServerParameters(command=sys.executable, args=list(self.command)))
        async with transport as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            yield Session(session, str(self.journal), anyio.Event())

    def told(self) -> list[str]:
        """The server's journal, without the process ids."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line for line in lines if not line.startswith("begun")]

    async def closed(self) -> None:
        """Wait until the server has seen the end of the session and, if it was a child of ours, has ended itself."""
        for line in self.journal.read_text().splitlines():
            if line.startswith("begun"):
                await gone(int(line.split()[1]))
        with anyio.fail_after(30):
            while "ended" not in self.told():
                await anyio.sleep(0.005)
