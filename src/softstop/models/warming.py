"""Has a provider's library build its schemas in a thread beforehand; with the first answer it takes a second or two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread

import httpx2
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import Model
from pydantic_core import from_json


def warm_up(make_model: Callable[[httpx2.AsyncClient], Model], sample: str) -> Future[None]:
    """Begin to play an answer to a model of this kind, in a thread of its own; nothing is sent."""
    warm: Future[None] = Future()
    warm.set_running_or_notify_cancel()  # from now on nobody who waits can cancel it

    def work() -> None:
        try:
            with suppress(Exception):  # boundary: provider's library. The first answer builds what is missing
                asyncio.run(_play(make_model, sample))
        finally:
            warm.set_result(None)

    Thread(target=work, name="softstop-models", daemon=True).start()
    return warm


async def _play(make_model: Callable[[httpx2.AsyncClient], Model], sample: str) -> None:
    lines = [f"event: {from_json(line).get('type')}\ndata: {line}\n\n" for line in sample.strip().splitlines()]

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text="".join(lines), request=request)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        asked = [ModelRequest.user_text_prompt("hi")]
        async with model_request_stream(make_model(http), asked, instrument=False) as stream:
            async for _ in stream:
                pass
        stream.get()
