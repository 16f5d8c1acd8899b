"""What an answer costs a token on its way from a provider's bytes to the readers, beside pydantic-ai's bare request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from unittest import mock

import httpx2
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelRequest

from softstop import Agent
from softstop.models import Anthropic, OpenAIChat, OpenAIResponses, anthropic, openai, providers
from softstop.models.exchange import note_request, note_response
from softstop.models.providers import Hosted

from .measuring import Effort, Row, Sample, cpu, interleaved, ratio

TOKENS = 3_000
DELTA = {"chat": '"content": "a"', "responses": "output_text.delta", "anthropic": "text_delta"}
OF_CALLS = ('"tool_calls"', '"output_index": 1', '"index": 1')
SAMPLES = {"chat": openai.COMPLETION, "responses": openai.RESPONSE, "anthropic": anthropic.MESSAGE}
KINDS: Mapping[str, type[Hosted]] = {"chat": OpenAIChat, "responses": OpenAIResponses, "anthropic": Anthropic}


def events(protocol: str, count: int) -> list[bytes]:
    """An answer of so many tokens, an event a token: the sample that warms the library up, without its call."""
    found: list[bytes] = []
    for line in SAMPLES[protocol].replace(f", {openai._CALL}", "").strip().splitlines():
        if not any(sign in line for sign in OF_CALLS):
            kind = line.partition('"type": "')[2].partition('"')[0]
            found += [f"event: {kind}\ndata: {line}\n\n".encode()] * (count if DELTA[protocol] in line else 1)
    return [*found, b"data: [DONE]\n\n"] if protocol == "chat" else found


class Replay(httpx2.AsyncByteStream):
    """A body that comes event by event, with a turn of the loop before each, as from a network."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await asyncio.sleep(0)
            yield piece


def connections(pieces: list[bytes]) -> httpx2.AsyncClient:
    """A client like that of a model's value, whose server is this process."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Replay(pieces))

    hooks: dict[str, list[Any]] = {"request": [note_request], "response": [note_response]}
    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer), event_hooks=hooks)


def through_softstop(protocol: str, pieces: list[bytes]) -> Sample:
    async def sample() -> float:
        with mock.patch.object(providers, "_connections", side_effect=lambda: connections(pieces)):
            agent = Agent(model=KINDS[protocol]("m", api_key="none"))
            begin = cpu()
            async for event in agent.arun("go"):
                last = event
        assert last.content == "a" * sum(DELTA[protocol].encode() in piece for piece in pieces), last
        return cpu() - begin

    return sample


def bare(protocol: str, pieces: list[bytes]) -> Sample:
    async def sample() -> float:
        begin = cpu()
        async with connections(pieces) as http:
            model = KINDS[protocol]("m", api_key="none").make_model(http)
            async with model_request_stream(model, [ModelRequest.user_text_prompt("go")], instrument=False) as stream:
                async for _ in stream:
                    pass
            stream.get()
        return cpu() - begin

    return sample


def rows(effort: Effort) -> list[Row]:
    found: list[Row] = []
    for protocol in KINDS:
        pieces = events(protocol, effort.count(TOKENS))
        samples = {"softstop": through_softstop(protocol, pieces), "bare": bare(protocol, pieces)}
        taken = interleaved(samples, effort.repeats)
        what = f"a token of a model, {protocol}: softstop / pydantic-ai's bare request"
        found.append(Row("22", what, ratio(taken, "softstop", "bare"), "x", 1.25))
    return found
