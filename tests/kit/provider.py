"""The local provider, as one test sees it. Knows its scripts; starts nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx2

from softstop.models import Anthropic, OpenAIChat, OpenAIResponses

KEY = "sk-canary-9f8e7d6c5b4a"


@dataclass
class Provider:
    """The server, as one test sees it: requests of other tests bear another key."""

    url: str
    key: str
    http: httpx2.AsyncClient

    def script(self, **script: object) -> str:
        return urlencode({"key": self.key, **script})

    def chat(self, **script: object) -> OpenAIChat:
        return OpenAIChat(self.script(**script), base_url=f"{self.url}/v1", api_key=KEY)

    def responses(self, **script: object) -> OpenAIResponses:
        return OpenAIResponses(self.script(**script), base_url=f"{self.url}/v1", api_key=KEY)

    def anthropic(self, **script: object) -> Anthropic:
        return Anthropic(self.script(**script), base_url=self.url, api_key=KEY)

    async def control(self) -> dict[str, Any]:
        answer = await self.http.get(f"{self.url}/control", params={"key": self.key})
        return json.loads(answer.text)

    async def requests(self) -> list[dict[str, Any]]:
        """What became of this test's requests, once none of them is under way any more."""
        with anyio.fail_after(30):
            while True:
                requests: list[dict[str, Any]] = (await self.control())["requests"]
                if all(request["done"] or request["gone"] for request in requests):
                    return requests
                await anyio.sleep(0.01)
