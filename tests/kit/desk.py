"""A server on the test's own loop, and three clients of it as applications use them: httpx, aiohttp, websockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import anyio
import httpx2
import websockets
from aiohttp import web

WORDS = ("w0 ", "w1 ", "w2 ")


@dataclass
class Desk:
    """Takes payments, which end when it is `open`, and says three words and then nothing any more."""

    url: str = ""
    asked: anyio.Event = field(default_factory=anyio.Event)
    open: anyio.Event = field(default_factory=anyio.Event)
    reader_gone: anyio.Event = field(default_factory=anyio.Event)
    told: list[str] = field(default_factory=list)

    async def pay(self) -> str:
        self.asked.set()
        try:
            await self.open.wait()
        except BaseException:
            self.told.append("torn")
            raise
        self.told.append("paid")
        return "paid"

    async def say(self, send: Callable[[str], Awaitable[object]]) -> None:
        try:
            for word in WORDS:
                await send(word)
            await anyio.sleep_forever()
        finally:
            self.reader_gone.set()

    async def _pay(self, request: web.Request) -> web.Response:
        return web.Response(text=await self.pay())

    async def _words(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await self.say(lambda word: response.write(f"{word}\n".encode()))
        return response

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async with anyio.create_task_group() as group:
            async for message in socket:
                if message.data == "pay":
                    await socket.send_str(await self.pay())
                else:
                    group.start_soon(self.say, socket.send_str)
            group.cancel_scope.cancel()
        return socket

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Desk]:
        """Listen until left."""
        app = web.Application()
        app.add_routes([web.get("/pay", self._pay), web.get("/words", self._words), web.get("/socket", self._socket)])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            yield self
        finally:
            await runner.cleanup()


@dataclass
class Client:
    """What a test needs of a client."""

    pay: Callable[[], Awaitable[str]]
    words: Callable[[], AsyncIterator[str]]
    is_closed: Callable[[], bool]


Connect = Callable[[str], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def httpx_client(url: str) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:

        async def pay() -> str:
            return (await http.get("/pay")).text

        async def words() -> AsyncIterator[str]:
            async with http.stream("GET", "/words") as response:
                async for line in response.aiter_lines():
                    yield line

        yield Client(pay, words, lambda: http.is_closed)


@asynccontextmanager
async def aiohttp_client(url: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(url) as http:

        async def pay() -> str:
            async with http.get("/pay") as response:
                return await response.text()

        async def words() -> AsyncIterator[str]:
            async with http.get("/words") as response:
                async for line in response.content:
                    yield line.decode().removesuffix("\n")

        yield Client(pay, words, lambda: http.closed)


@asynccontextmanager
async def websockets_client(url: str) -> AsyncIterator[Client]:
    async with websockets.connect(f"{url}/socket".replace("http", "ws", 1), proxy=None) as socket:

        async def pay() -> str:
            await socket.send("pay")
            return str(await socket.recv())

        async def words() -> AsyncIterator[str]:
            await socket.send("words")
            async for message in socket:
                yield str(message)

        yield Client(pay, words, lambda: socket.state is websockets.State.CLOSED)


CLIENTS: list[Connect] = [httpx_client, aiohttp_client, websockets_client]
