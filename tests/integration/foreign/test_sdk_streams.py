"""Streams of SDKs under `run.stream`: generators that hold scopes, task groups and connections open across a yield.

None of them may end a run that nobody stopped, and each is closed whole, wherever it is read and however it is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import httpx2
import openai
import pydantic_ai
import pytest
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider

from kit.foreign import ended, pass_time, turns
from kit.sources import (
    DEADLINE,
    FOUR,
    Far,
    Read,
    Source,
    anywhere,
    of_closable_sources,
    of_each_source,
    reader_in_a_group_of_asyncio,
)  # fmt: skip
from softstop import Agent, RunContent, RunContext, RunOutput, RunStatus, Supervisor


def reader(source: Source, far: Far, place: Callable[[Read], Awaitable[None]], *, leave: bool) -> Agent:
    """An agent that reads the source in that place, perhaps leaves it after two words, and goes on beyond it."""
    times = 2 if "two" in place.__name__ else 1

    async def body(run: RunContext, message: str) -> None:
        async def read() -> None:
            async with run.stream("ask", source(far)) as words:
                async for word in words:
                    run.write(word)
                    if leave and word == "w1 ":
                        break
            while far.told.count("source ended") < times:
                await asyncio.sleep(0.001)
            pass_time(DEADLINE)
            await turns()  # whatever the source has left behind strikes now
            async with run.step("save"):
                await asyncio.sleep(0)
                run.write("saved ")

        await place(read)

    return Agent(body)


@anywhere
@of_closable_sources
async def test_a_source_left_early_does_not_end_a_run_that_nobody_stopped(
    source: Source, place: Callable[[Read], Awaitable[None]]
) -> None:
    far = Far()
    with anyio.fail_after(30):
        output = await reader(source, far, place, leave=True).arun("go").ended()

    times = 2 if "two" in place.__name__ else 1
    assert (output.status, output.stop, output.errors) == (RunStatus.completed, None, ())
    assert sorted(output.content.split()) == sorted(["w0", "w1", "saved"] * times)
    assert sorted(ended(output)) == [("ask", "completed")] * times + [("save", "completed")] * times
    assert sorted(far.told) == ["far side ended"] * times + ["source ended"] * times


@anywhere
@of_each_source
async def test_a_source_read_to_its_end_does_not_end_a_run_that_nobody_stopped(
    source: Source, place: Callable[[Read], Awaitable[None]]
) -> None:
    far = Far()
    with anyio.fail_after(30):
        output = await reader(source, far, place, leave=False).arun("go").ended()

    times = 2 if "two" in place.__name__ else 1
    assert (output.status, output.errors) == (RunStatus.completed, ())
    assert sorted(output.content.split()) == sorted([*FOUR.split(), "saved"] * times)
    assert sorted(far.told) == ["far side ended"] * times + ["source ended"] * times


@anywhere
@of_each_source
async def test_a_source_that_stalls_is_stopped_at_once_and_closed_whole(
    source: Source, place: Callable[[Read], Awaitable[None]]
) -> None:
    far = Far(stalls=True)
    times = 2 if "two" in place.__name__ else 1
    with anyio.fail_after(30):
        run = reader(source, far, place, leave=False).arun("go")
        content = ""
        async for event in run.events():
            content += event.content if isinstance(event, RunContent) else ""
            if content.count("w3 ") == times:
                break
        await turns()
        run.cancel()
        output = await run.ended()

    assert (output.status, output.errors, output.abandoned) == (RunStatus.cancelled, (), ())
    assert sorted(output.content.split()) == sorted(FOUR.split() * times)
    assert ended(output) == [("ask", "cut")] * times
    assert sorted(far.told) == ["far side ended"] * times + ["source ended"] * times


@of_closable_sources
async def test_a_stop_between_two_chunks_closes_the_source_whole(source: Source) -> None:
    far = Far()

    async def body(run: RunContext, message: str) -> None:
        async with run.stream("ask", source(far)) as words:
            async for word in words:
                run.write(word)
                if word == "w1 ":
                    asyncio.get_running_loop().call_soon(live.cancel)
                    await asyncio.sleep(0.001)

    with anyio.fail_after(30):
        live = Agent(body).arun("go")
        output = await live.ended()

    assert (output.status, ended(output), output.errors) == (RunStatus.cancelled, [("ask", "cut")], ())
    assert FOUR.startswith(output.content)
    assert sorted(far.told) == ["far side ended", "source ended"]


@of_closable_sources
async def test_a_source_that_a_bare_loop_has_left_open_is_closed_when_the_run_ends(source: Source) -> None:
    far = Far()

    async def body(run: RunContext, message: str) -> None:
        async for word in run.stream("ask", source(far)):
            run.write(word)
            break

    with anyio.fail_after(30):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "w0 ", ())
    assert sorted(far.told) == ["far side ended", "source ended"]


async def test_a_task_group_of_asyncio_across_a_yield_makes_no_error_of_an_early_break() -> None:
    """Closed in plain `aclosing` it does: the group wraps the GeneratorExit of its own block."""

    async def body(run: RunContext, message: str) -> list[str]:
        with pytest.raises(BaseExceptionGroup):
            async with aclosing(reader_in_a_group_of_asyncio(Far())) as words:
                await anext(words)
        far = Far()
        async with run.stream("ask", reader_in_a_group_of_asyncio(far)) as chunks:
            await anext(chunks)
        async with run.step("save"):
            run.write("saved")
        return far.told

    with anyio.fail_after(30):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.content, output.errors) == (RunStatus.completed, "saved", ())
    assert output.value == ["far side ended", "source ended"]


async def test_a_source_s_own_deadline_is_its_failure_and_no_stop() -> None:
    async def late() -> AsyncIterator[str]:
        with anyio.fail_after(0.01):
            yield "w0 "
            await anyio.sleep_forever()

    async def body(run: RunContext, message: str) -> None:
        try:
            async for word in run.stream("ask", late()):
                run.write(word)
        except TimeoutError:
            async with run.step("ask somebody else"):
                run.write("instead")

    with anyio.fail_after(30):
        output = await Agent(body).arun("go").ended()

    assert (output.status, output.stop, output.content) == (RunStatus.completed, None, "w0 instead")
    assert ended(output) == [("ask", "failed"), ("ask somebody else", "completed")]


async def test_a_test_model_of_pydantic_ai_is_read_and_left_in_a_body_that_leads_members() -> None:
    theirs = pydantic_ai.Agent(TestModel(custom_output_text="one two three four"))

    async def source() -> AsyncIterator[str]:
        async with theirs.run_stream("go") as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text

    async def member(run: RunContext, message: str) -> None:
        async with run.stream("ask", source()) as words:
            async for word in words:
                run.write(word)
                break

    async def lead(run: RunContext, message: str) -> list[str]:
        async with anyio.create_task_group() as group:
            outputs: list[RunOutput] = []

            async def one() -> None:
                outputs.append(await run.member(Agent(member), "go"))

            group.start_soon(one)
            group.start_soon(one)
        return [output.content for output in outputs]

    with anyio.fail_after(30):
        output = await Agent(lead).arun("go").ended()

    assert (output.status, output.value, output.errors) == (RunStatus.completed, ["one ", "one "], ())


# -- over HTTP, from the local provider ------------------------------------------------------------------------------


async def went_away(url: str, key: str) -> bool:
    """Whether the provider has seen that its one client of this key has gone, before it had said everything."""
    async with httpx2.AsyncClient(timeout=30) as http:
        with anyio.fail_after(30):
            while True:
                told: Any = (await http.get(url.removesuffix("/v1") + "/control", params={"key": key})).json()
                [request] = told["requests"]
                if request["gone"] or request["done"]:
                    return bool(request["gone"])
                await anyio.sleep(0.005)


async def openai_sdk(url: str, model: str) -> AsyncIterator[str]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        asked: Any = [{"role": "user", "content": "go"}]
        async with await client.chat.completions.create(model=model, messages=asked, stream=True) as chunks:
            async for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content


async def openai_by_pydantic_ai(url: str, model: str) -> AsyncIterator[str]:
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        theirs = pydantic_ai.Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)))
        async with theirs.run_stream("go") as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text


over_http = pytest.mark.parametrize("sdk", [openai_sdk, openai_by_pydantic_ai], ids=lambda sdk: sdk.__name__)


@pytest.mark.server
@over_http
async def test_an_answer_over_http_that_stalls_is_stopped_and_its_connection_closed(
    sdk: Callable[[str, str], AsyncIterator[str]], provider_url: str
) -> None:
    key = f"stalls-{sdk.__name__}"

    async def body(run: RunContext, message: str) -> None:
        async for word in run.stream("ask", sdk(provider_url, f"key={key}&words=9&stall=4")):
            run.write(word)

    with anyio.fail_after(30):
        run = Agent(body).arun("go")
        content = ""
        async for event in run.events():
            content += event.content if isinstance(event, RunContent) else ""
            if content == FOUR:
                break
        run.cancel()
        output = await run.ended()

        assert (output.status, output.content, output.errors) == (RunStatus.cancelled, FOUR, ())
        assert ended(output) == [("ask", "cut")]
        assert await went_away(provider_url, key)


@pytest.mark.server
@over_http
@anywhere
async def test_an_answer_over_http_left_early_does_not_end_a_run_that_nobody_stopped(
    sdk: Callable[[str, str], AsyncIterator[str]], place: Callable[[Read], Awaitable[None]], provider_url: str
) -> None:
    async def body(run: RunContext, message: str) -> None:
        async def read() -> None:
            async with run.stream("ask", sdk(provider_url, "words=500")) as words:
                async for word in words:
                    run.write(word)
                    break
            async with run.step("save"):
                run.write("saved ")

        await place(read)

    with anyio.fail_after(30):
        output = await Agent(body).arun("go").ended()

    times = 2 if "two" in place.__name__ else 1
    assert (output.status, output.stop, output.errors) == (RunStatus.completed, None, ())
    assert sorted(output.content.split()) == sorted(["w0", "saved"] * times)


@pytest.mark.server
async def test_an_openai_stream_is_read_as_it_is_and_closed_by_a_stop(provider_url: str) -> None:
    key = "as-it-is"

    async def body(run: RunContext, message: str) -> None:
        client = await run.open(openai.AsyncOpenAI(base_url=provider_url, api_key="none"))
        asked: Any = [{"role": "user", "content": "go"}]
        chunks = await client.chat.completions.create(model=f"key={key}&words=9&stall=2", messages=asked, stream=True)
        async for chunk in run.stream("ask", chunks):
            run.write(chunk.choices[0].delta.content or "")

    with anyio.fail_after(30):
        async with Supervisor() as supervisor:
            run = supervisor.start(Agent(body), "go")
            async for event in run.events():
                if isinstance(event, RunContent) and "w1" in event.content:
                    break
            run.cancel()
            output = await run.ended()

        assert (output.status, output.content, output.errors) == (RunStatus.cancelled, "w0 w1 ", ())
        assert await went_away(provider_url, key)
