"""Sources as SDKs write them, which hold scopes, task groups and connections open across a yield; and where to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import pydantic_ai
import pytest
from pydantic_ai.models.function import FunctionModel

FOUR = "w0 w1 w2 w3 "
DEADLINE = 10.0  # seconds: of a source that holds a timeout open; the run goes on beyond it


@dataclass
class Far:
    """The far side of a stream: four words, and then, if it stalls, nothing any more."""

    stalls: bool = False
    told: list[str] = field(default_factory=list)

    async def words(self) -> AsyncIterator[str]:
        try:
            for number in range(4):
                await asyncio.sleep(0)
                yield f"w{number} "
            if self.stalls:
                await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):  # clean-up that awaits, also under a reader of anyio
                await asyncio.sleep(0.001)
                await asyncio.sleep(0.001)
            self.told.append("far side ended")


async def deadline_of_anyio(far: Far) -> AsyncIterator[str]:
    with anyio.fail_after(60 if far.stalls else DEADLINE):
        words = far.words()
        try:
            async for word in words:
                yield word
        finally:
            await words.aclose()
            far.told.append("source ended")


async def deadline_of_asyncio(far: Far) -> AsyncIterator[str]:
    async with asyncio.timeout(60 if far.stalls else DEADLINE):  # noqa: TID251 - SDKs do
        words = far.words()
        try:
            async for word in words:
                yield word
        finally:
            await words.aclose()
            far.told.append("source ended")


async def reader_in_a_group_of_anyio(far: Far) -> AsyncIterator[str]:
    """As a client that reads in a task of its own: what it has opened is closed by hand, in order."""
    send, receive = anyio.create_memory_object_stream[str](1)

    async def reader() -> None:
        words = far.words()
        try:
            async with send:
                async for word in words:
                    await send.send(word)
        finally:
            with anyio.CancelScope(shield=True):
                await words.aclose()

    group = anyio.create_task_group()
    await group.__aenter__()
    group.start_soon(reader)
    try:
        async for word in receive:
            yield word
    finally:
        receive.close()
        group.cancel_scope.cancel()
        try:
            await group.__aexit__(None, None, None)
        finally:
            far.told.append("source ended")


async def reader_in_a_group_of_asyncio(far: Far) -> AsyncIterator[str]:
    queue: asyncio.Queue[str | None] = asyncio.Queue(1)

    async def reader() -> None:
        words = far.words()
        try:
            async for word in words:
                await queue.put(word)
            await queue.put(None)
        finally:
            await words.aclose()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(reader())
        try:
            while (word := await queue.get()) is not None:
                yield word
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            far.told.append("source ended")


async def run_stream_of_pydantic_ai(far: Far) -> AsyncIterator[str]:
    async def answer(messages: object, info: object) -> AsyncIterator[str]:
        words = far.words()
        try:
            async for word in words:
                yield word
        finally:
            await words.aclose()

    try:
        async with pydantic_ai.Agent(FunctionModel(stream_function=answer)).run_stream("go") as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text
    finally:
        far.told.append("source ended")


Source = Callable[[Far], AsyncIterator[str]]
Read = Callable[[], Awaitable[None]]
CLOSABLE: list[Source] = [deadline_of_anyio, deadline_of_asyncio, reader_in_a_group_of_anyio, run_stream_of_pydantic_ai]
SOURCES = [*CLOSABLE, reader_in_a_group_of_asyncio]


async def in_the_body(read: Read) -> None:
    await read()


async def in_an_anyio_branch(read: Read) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(read)


async def in_two_anyio_branches(read: Read) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(read)


async def in_two_asyncio_branches(read: Read) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(read())


PLACES = [in_the_body, in_an_anyio_branch, in_two_anyio_branches, in_two_asyncio_branches]
of_closable_sources = pytest.mark.parametrize("source", CLOSABLE, ids=lambda source: source.__name__)
of_each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
anywhere = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
