"""Pictures beside text through real clients: they go over the wire as what they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic_ai import BinaryContent, ImageUrl

from kit.provider import Provider
from kit.wire import PROTOCOLS
from softstop import Agent, RunStatus

pytestmark = pytest.mark.server

PICTURE = bytes(range(256)) * 200
LINK = "https://example.org/a.png"
MESSAGE = ["What is this?", BinaryContent(PICTURE, media_type="image/png"), ImageUrl(LINK)]
ENCODED = base64.b64encode(PICTURE).decode()


def contents(protocol: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Type and data of what the prompt of a request is made of."""
    [prompt] = [item for item in body.get("messages", body.get("input")) if item["role"] == "user"]
    return [(item["type"], json.dumps(item)) for item in prompt["content"]]


TYPES = {
    "chat": ["text", "image_url", "image_url"],
    "responses": ["input_text", "input_image", "input_image"],
    "anthropic": ["text", "image", "image"],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_picture_is_sent_as_a_picture(provider: Provider, protocol: str) -> None:
    output = await Agent(model=getattr(provider, protocol)(words=2)).arun(MESSAGE)

    assert output.status is RunStatus.completed
    [request] = await provider.requests()
    sent = contents(protocol, request["body"])
    assert [kind for kind, _ in sent] == TYPES[protocol]
    assert [text in told for text, (_, told) in zip(("What is this?", ENCODED, LINK), sent, strict=True)] == [True] * 3
    assert ENCODED not in sent[0][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_conversation_with_a_picture_goes_on(provider: Provider, protocol: str) -> None:
    first = await Agent(model=getattr(provider, protocol)(words=2)).arun(MESSAGE)
    again = await Agent(model=getattr(provider, protocol)(words=3)).arun("And now?", continue_from=first)

    assert (again.status, again.content) == (RunStatus.completed, "w0 w1 w2 ")
    assert ENCODED in json.dumps((await provider.requests())[1]["body"])
