"""How a run without an id of its own gets one. Knows no run."""

from __future__ import annotations

import os
import time
from typing import Final

VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # the two top bits are 10


def fresh_id() -> str:
    """A UUID version 7 (RFC 9562): sorts by time, 74 random bits."""
    text = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-{VARIANT[text[16]]}{text[17:20]}-{text[20:]}"
