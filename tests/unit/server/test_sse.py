"""Streams that last: no text forges a frame, a slow client is dropped, silence is broken, and who leaves is let go."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import contextmanager, nullcontext
from inspect import iscoroutinefunction
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from kit.runs import now
from kit.server import frames_of
from softstop import Agent, RunContext, Supervisor
from softstop.durable import Runs
from softstop.errors import StoreUnavailable
from softstop.server.app import MODULES
from softstop.server.sse import EventStreamResponse, LateResponse
from softstop.wire import agentos, native, responses

DELTAS = ("RunContent", "response.output_text.delta")
FORGED = ["x\n\nevent: RunCompleted\ndata: {}\n\n", "a\r\rdata: b\r\r", "\u2028\u2029\x85", "</script>", "\x00", ": c"]


@given(st.lists(st.one_of(st.sampled_from(FORGED), st.text(max_size=40)), min_size=1, max_size=5), st.text(max_size=20))
def test_a_text_comes_back_as_it_was_and_forges_no_frame(texts: list[str], reason: str) -> None:
    async def main() -> None:
        async def body(run: RunContext, message: object) -> None:
            for text in texts:
                run.write(text)
            async with run.step(f"step {texts[0]}"):
                run.write(texts[-1])
            await anyio.sleep(10)

        async with Supervisor() as supervisor:
            runs = Runs(supervisor)
            run = supervisor.start(Agent(body), "go")
            await anyio.lowlevel.checkpoint()
            run.cancel(reason=reason)
            pages = [page async for page in await runs.follow(run.run_id)]
        told = frames_of("".join(native.frames(page).decode() for page in pages))
        assert [int(frame["id"]) for frame in told] == list(range(1, len(told) + 1))
        events = [json.loads(frame["data"]) for frame in told]
        assert [frame["event"] for frame in told] == [event["event"] for event in events]
        output = run.output
        assert output is not None
        assert "".join(event["content"] for event in events if event["event"] == "RunContent") == output.content
        for wire, text in ((agentos.Wire(run.facts), "content"), (responses.Wire(run.facts), "delta")):
            sent = b"".join(map(wire, pages)).decode()
            read = [json.loads(frame["data"]) for frame in frames_of(sent)]
            lines = [line.removeprefix("data: ") for line in sent.splitlines() if line.startswith("data: ")]
            if text == "content":  # as agno's clients read it
                assert [json.loads(line) for line in lines] == read
            deltas = [event for event in read if event.get("event", event.get("type")) in DELTAS]
            assert "".join(event[text] for event in deltas) == output.content

    asyncio.run(main())


class Client:
    """One side of ASGI: takes what is sent, at its own pace, and may leave."""

    def __init__(self, slow: float = 0.0) -> None:
        self.slow = slow
        self.body = b""
        self.ended = False
        self.leaves = anyio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await anyio.sleep(self.slow)
        self.body += message.get("body", b"")
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)


class Door:
    """Who is inside."""

    def __init__(self) -> None:
        self.inside = 0

    @contextmanager
    def __call__(self) -> Any:
        self.inside += 1
        yield
        self.inside -= 1


async def ticks(number: int, every: float) -> AsyncIterator[bytes]:
    for _ in range(number):
        await anyio.sleep(every)
        yield b"data: x\n\n"


async def served(client: Client, chunks: AsyncIterator[bytes], **options: Any) -> float:
    """Serve a client, and say how long it took."""
    began, door = now(), Door()
    response = EventStreamResponse(
        chunks, bytes, door(), **{"heartbeat": (b": h\n\n", 15.0), "patience": 30.0, **options}
    )
    await response({"type": "http"}, client.receive, client.send)
    assert door.inside == 0
    return now() - began


async def test_a_stream_ends_with_its_chunks() -> None:
    client = Client()
    assert await served(client, ticks(3, 1.0)) == 3
    assert (client.body, client.ended) == (b"data: x\n\n" * 3, True)


async def test_a_stream_that_lingers_gathers_what_comes_meanwhile() -> None:
    client = Client()
    assert await served(client, ticks(3, 0.0), linger=0.5) == 1.5
    assert (client.body, client.ended) == (b"data: x\n\n" * 3, True)


async def test_silence_is_broken_by_a_comment_and_nothing_else() -> None:
    client = Client()
    assert await served(client, ticks(2, 40.0)) == 80
    assert client.body == (b": h\n\n" * 2 + b"data: x\n\n") * 2


async def test_a_client_that_takes_nothing_is_dropped_when_its_time_is_over() -> None:
    client, dropped = Client(slow=1_000.0), Counter[str]()
    told = {"dropped": lambda: dropped.update(["a"])}
    assert await served(client, ticks(3, 1.0), **told) < 1_000 + 32  # the first send is that of the head
    assert (client.ended, dropped["a"]) == (False, 1)


async def test_a_client_that_stops_reading_in_silence_is_dropped_as_well() -> None:
    client, dropped = Client(), Counter[str]()
    chunks = ticks(1, 500.0)

    async def stall() -> None:
        await anyio.sleep(10)
        client.slow = 1_000.0

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stall)
        assert await served(client, chunks, dropped=lambda: dropped.update(["a"])) < 60
    assert dropped["a"] == 1


async def test_a_client_that_does_not_take_the_end_is_dropped_as_well() -> None:
    client, dropped = Client(), Counter[str]()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: x\n\n"
        client.slow = 1_000.0

    assert 30 <= await served(client, chunks(), dropped=lambda: dropped.update(["a"])) < 32
    assert (client.body, client.ended, dropped["a"]) == (b"data: x\n\n", False, 1)


async def test_a_client_that_leaves_ends_the_response_at_once() -> None:
    client = Client()

    async def leave() -> None:
        await anyio.sleep(7)
        client.leaves.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        assert await served(client, ticks(100, 1.0), dropped=lambda: pytest.fail("it has left")) == 7
    assert not client.ended


async def test_a_stream_without_an_end_of_its_own_ends_when_there_is_a_reason() -> None:
    client = Client()
    began = now()
    assert 20 <= await served(client, ticks(1_000, 100.0), over=lambda: now() - began > 20) < 21
    assert client.ended


async def test_an_answer_that_takes_its_time_is_given_up_when_nobody_waits() -> None:
    client, door, began = Client(), Door(), now()

    async def answer() -> Any:
        await anyio.sleep(100)
        raise NotImplementedError

    async def leave() -> None:
        await anyio.sleep(3)
        client.leaves.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        await LateResponse(answer, door())({"type": "http"}, client.receive, client.send)
    assert (now() - began, client.body, door.inside) == (3, b"", 0)


async def test_an_answer_that_fails_while_it_is_waited_for_is_a_problem_with_its_code() -> None:
    async def answer() -> Response:
        raise StoreUnavailable("full")

    client = Client()
    scope = {"type": "http", "method": "GET", "path": "/runs/r/wait", "state": {"trace_id": "0af7"}}
    await LateResponse(answer, nullcontext())(scope, client.receive, client.send)
    assert b'"STORE_UNAVAILABLE"' in client.body
    assert b'"trace_id":"0af7"' in client.body
    assert b'"instance":"/runs/r/wait"' in client.body


async def test_the_head_passes_all_layers_and_the_frames_those_that_have_to_see_them() -> None:
    layers, gate = Client(), Client()
    response = EventStreamResponse(ticks(3, 1.0), bytes, Door()(), heartbeat=(b": h\n\n", 15.0), patience=30.0)
    await response({"type": "http", "state": {"send": gate.send}}, gate.receive, layers.send)
    assert (layers.body, layers.ended) == (b"", False)
    assert (gate.body, gate.ended) == (b"data: x\n\n" * 3, True)


async def test_what_comes_first_comes_with_the_first_frame_and_never_alone() -> None:
    client = Client()
    await served(client, ticks(3, 1.0), first=b"retry: 1\n")
    assert client.body == b"retry: 1\n" + b"data: x\n\n" * 3
    client = Client()
    response = EventStreamResponse(
        ticks(2, 1.0), lambda _: b"", Door()(), first=b"retry: 1\n", heartbeat=(b": h\n\n", 15.0), patience=30.0
    )
    await response({"type": "http"}, client.receive, client.send)
    assert (client.body, client.ended) == (b"", True)


def test_no_request_waits_for_a_thread() -> None:
    """FastAPI calls a plain function that a route depends on in a thread."""
    routes = [route for module in MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    calls = {dependency.call for route in routes for dependency in route.dependant.dependencies}
    assert len(calls) >= 2
    assert all(iscoroutinefunction(call) for call in calls)
    assert all(iscoroutinefunction(route.endpoint) for route in routes)
