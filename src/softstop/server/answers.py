"""Answers of JSON."""

from __future__ import annotations

from typing import Any

from fastapi import responses
from pydantic_core import to_json


class JSONResponse(responses.JSONResponse):
    """JSON by pydantic's encoder, in a fifth of the time of the standard library's; NaN, which JSON lacks, is null."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content, inf_nan_mode="null")
