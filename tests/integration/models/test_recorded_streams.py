"""Streams that real providers have sent, played by a local server: each gives what pydantic-ai makes of it, or fails.

They are data of a public test suite and no part of this tree: `PROVIDER_STREAMS` names the file, a gzipped JSON list of
`{"name", "family", "body"}`; without it, it is looked for in a folder `shared/data` beside the tree.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import ModelAPIError
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelRequest, ModelResponse, NativeToolReturnPart, TextPart

from kit.provider import Provider
from kit.wire import PROTOCOLS, End, body, playing
from softstop import Agent, ModelRequestCompleted, RunStatus

BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data" / "provider_streams.json.gz"
RECORDED = Path(os.environ.get("PROVIDER_STREAMS", BESIDE))
FAIL = {  # their servers tell an error in the stream
    "test_groq__test_tool_use_failed_error_streaming#0",
    "test_groq__test_tool_use_failed_error_streaming_with_text#0",
    "test_openrouter__test_openrouter_stream_error#0",
}


def recorded(protocol: str) -> list[dict[str, Any]]:
    if not RECORDED.exists():
        pytest.skip("there are no recorded streams here; PROVIDER_STREAMS=<file> names them")
    with gzip.open(RECORDED) as file:
        return [stream for stream in json.load(file) if stream["family"] == protocol]


async def theirs(protocol: str, data: bytes) -> ModelResponse | None:
    """What pydantic-ai makes of a stream; None if it raises."""
    async with playing(data) as wire:
        model = wire.model(protocol).make_model()
        try:
            async with model, model_request_stream(model, [ModelRequest.user_text_prompt("go")]) as stream:
                async for _ in stream:
                    pass
                return stream.get()
        except ModelAPIError:
            return None


def plain(response: ModelResponse) -> list[dict[str, Any]]:
    return [{**vars(part), "timestamp": None} for part in response.parts]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_recorded_streams_give_the_same_parts_text_and_usage_as_pydantic_ai_and_go_on(
    protocol: str, provider: Provider
) -> None:
    for stream in recorded(protocol):
        data = stream["body"].encode()
        async with playing(data, body(protocol, "Done.", End())) as wire:
            run = Agent(model=wire.model(protocol)).arun("go")
            events = [event async for event in run]
            output = await run
        expected = await theirs(protocol, data)

        if stream["name"] in FAIL:
            assert (output.status, expected) == (RunStatus.failed, None), stream["name"]
            continue
        assert output.status is RunStatus.completed, (stream["name"], output.errors)
        assert expected is not None
        first = next(message for message in output.messages if isinstance(message, ModelResponse))
        ended = next(event for event in events if isinstance(event, ModelRequestCompleted))
        assert plain(first) == plain(expected), stream["name"]
        text = "".join(part.content for part in expected.parts if isinstance(part, TextPart))
        assert output.content == text + ("Done." if expected.tool_calls else ""), stream["name"]
        assert ended.finish_reason is not None, stream["name"]
        assert ended.metrics is not None
        assert ended.metrics.estimated is not expected.usage.has_values()
        if expected.usage.has_values():
            used = ended.metrics.input_tokens, ended.metrics.output_tokens
            assert used == (expected.usage.input_tokens, expected.usage.output_tokens), stream["name"]
        if any(isinstance(part, NativeToolReturnPart) for part in first.parts):
            continue  # of a provider's own tools, which only a model that has them is told again
        more = await Agent(model=getattr(provider, protocol)(words=2)).arun("Go on.", continue_from=output)
        assert more.content == "w0 w1 ", (stream["name"], more.errors)
