"""A small MCP server for tests, run as its own process, over stdio or over streamable HTTP.

Must not know softstop. `mcp_server.py stdio JOURNAL` serves the one client at its pipes. `mcp_server.py http` prints
its port, serves any number of clients until its stdin is closed, and finds the journal's name in the URL, `?journal=`.

The journal is a file, to which the server adds a line for whatever happens: `begun <pid>` and `ended` for a session
(over HTTP only its end, a DELETE), `asked pay`, `paid`, `torn` for a payment that was cut, `noted TEXT`.

    pay()         report progress once it has begun, wait for `release`, answer "paid"
    release()     let every payment of this process go on
    note(text)    answer at once
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer


def write(journal: str, line: str) -> None:
    with Path(journal).open("a") as file:
        file.write(line + "\n")


def make_server(journal: str | None) -> MCPServer:
    """The server with its three tools."""
    released: dict[str, anyio.Event] = {}

    @asynccontextmanager
    async def life(_: MCPServer) -> AsyncIterator[None]:
        if journal is None:  # one for all sessions
            yield
            return
        write(journal, f"begun {os.getpid()}")
        yield
        write(journal, "ended")

    server = MCPServer("shop", lifespan=life, log_level="ERROR")

    @server.tool()
    async def pay(book: str, context: Context[Any, Any]) -> str:
        """Pay, once released."""
        write(book, "asked pay")
        gate = released.setdefault(book, anyio.Event())
        try:
            await context.report_progress(1, 2)
            await gate.wait()
        except BaseException:
            write(book, "torn")
            raise
        write(book, "paid")
        return "paid"

    @server.tool()
    async def release(book: str) -> str:
        """Let payments go on."""
        released.setdefault(book, anyio.Event()).set()
        return "released"

    @server.tool()
    async def note(book: str, text: str) -> str:
        """Note something."""
        write(book, f"noted {text}")
        return text

    return server


def serve_http() -> None:
    app = make_server(None).streamable_http_app()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        if scope["type"] == "http" and scope["method"] == "DELETE":
            write(parse_qs(scope["query_string"].decode())["journal"][0], "ended")

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(watched, log_level="error", timeout_graceful_shutdown=1))

    def end_with_stdin() -> None:
        sys.stdin.read()
        server.should_exit = True

    Thread(target=end_with_stdin, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    server.run([listener])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        make_server(sys.argv[2]).run()
    else:
        serve_http()
