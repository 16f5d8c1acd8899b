"""OpenAI's own client, unchanged, against this server: stream, drop, resume, cancel, retrieve."""

from typing import Any

import httpx2
import pytest

from kit.server import app, serving

openai: Any = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("ignore")


def sdk(client: httpx2.AsyncClient) -> Any:
    return openai.AsyncOpenAI(base_url=f"{str(client.base_url).rstrip('/')}/v1", api_key="none", max_retries=0)


async def test_a_background_response_is_dropped_resumed_and_cancelled() -> None:
    async with serving(app()) as client, sdk(client) as ai:
        events: list[Any] = []
        stream = await ai.responses.create(model="story-teller", input="go", background=True, stream=True)
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta" and event.delta == "w2 ":
                break
        await stream.close()
        run_id = events[0].response.id
        last = events[-1].sequence_number
        again = await ai.responses.retrieve(run_id, stream=True, starting_after=last)
        async for event in again:
            events.append(event)
            if event.type == "response.output_text.delta" and event.delta == "w4 ":
                cancelled = await ai.responses.cancel(run_id)
                assert cancelled.status == "cancelled"
        assert [event.type for event in events[:4]] == [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        ]  # fmt: skip
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text.startswith("w0 w1 w2 w3 w4 ")
        assert events[-1].type == "response.incomplete"
        assert events[-1].response.status == "cancelled"
        retrieved = await ai.responses.retrieve(run_id)
        assert (retrieved.status, retrieved.output_text) == ("cancelled", text)
        for number in numbers[::7]:
            rest = [event async for event in await ai.responses.retrieve(run_id, stream=True, starting_after=number)]
            assert [event.sequence_number for event in rest] == [each for each in numbers if each > number]
        with pytest.raises(openai.BadRequestError):
            await ai.responses.cancel(run_id)
        for call in (ai.responses.retrieve, ai.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await call("resp_nobody")


async def test_a_response_that_is_waited_for_has_its_text_and_a_failed_one_its_error() -> None:
    async with serving(app()) as client, sdk(client) as ai:
        done = await ai.responses.create(
            model="quick",
            input=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            metadata={"k": "v"},
        )
        assert (done.status, done.output_text, done.metadata) == ("completed", "said hi", {"k": "v"})
        assert done.usage.total_tokens == 0
        failed = await ai.responses.create(model="broken", input="hi")
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        with pytest.raises(openai.NotFoundError):
            await ai.responses.create(model="nobody", input="hi")
        streamed = [event.type async for event in await ai.responses.create(model="broken", input="hi", stream=True)]
        assert streamed[-1] == "response.failed"
