"""Clients that people have, under runs: httpx, aiohttp and websockets, against a real server."""

from __future__ import annotations

import anyio
import pytest

from kit.desk import CLIENTS, WORDS, Client, Connect, Desk
from kit.foreign import ended, turns
from softstop import Agent, RunContent, RunContext, RunStatus

each_client = pytest.mark.parametrize("connect", CLIENTS, ids=lambda connect: connect.__name__)


@pytest.mark.parametrize("opened", ["in the body", "run.open"])
@each_client
async def test_a_request_in_flight_ends_when_a_stop_comes(connect: Connect, opened: str) -> None:
    clients: list[Client] = []

    async def pays(run: RunContext, client: Client) -> None:
        clients.append(client)
        async with run.step("pay"):
            run.write(await client.pay())
        async with run.step("mail"):
            raise NotImplementedError

    async def body(run: RunContext, url: str) -> None:
        if opened == "run.open":
            await pays(run, await run.open(connect(url)))
        else:
            async with connect(url) as client:
                await pays(run, client)

    with anyio.fail_after(30):
        async with Desk().serve() as desk:
            run = Agent(body).arun(desk.url)
            await desk.asked.wait()
            run.cancel()
            await turns()
            desk.open.set()
            output = await run.ended()

    assert (output.status, output.content, ended(output)) == (RunStatus.cancelled, "paid", [("pay", "completed")])
    assert (output.errors, desk.told) == ((), ["paid"])
    assert clients[0].is_closed()


@each_client
async def test_an_answer_that_stalls_is_stopped_and_its_connection_closed(connect: Connect) -> None:
    async def body(run: RunContext, url: str) -> None:
        async with connect(url) as client:
            async for word in run.stream("read", client.words()):
                run.write(word)

    with anyio.fail_after(30):
        async with Desk().serve() as desk:
            run = Agent(body).arun(desk.url)
            async for event in run.events():
                if isinstance(event, RunContent) and WORDS[-1] in event.content:
                    break
            run.cancel()
            output = await run.ended()
            await desk.reader_gone.wait()

    assert (output.status, output.content, output.errors) == (RunStatus.cancelled, "".join(WORDS), ())
    assert ended(output) == [("read", "cut")]


@each_client
async def test_an_answer_left_early_leaves_a_client_that_goes_on(connect: Connect) -> None:
    async def body(run: RunContext, url: str) -> None:
        client = await run.open(connect(url))
        async with run.stream("read", client.words()) as words:
            async for word in words:
                run.write(word)
                if word == WORDS[-1]:
                    break
        async with run.step("pay"):
            run.write(await client.pay())

    with anyio.fail_after(30):
        async with Desk().serve() as desk:
            desk.open.set()
            output = await Agent(body).arun(desk.url).ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "".join(WORDS) + "paid", ())
