"""What an agent gives to its model: the keywords of `make_body`. Knows no model."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypedDict

from ..checks import typed
from ..runs.context import RunContext
from .tools import Tools

Instruction = str | Callable[[RunContext], str | Awaitable[str]]


class BodyOptions(TypedDict, total=False):
    """The keywords of `make_body`, which an agent has checked."""

    instructions: Iterable[Instruction]
    """System texts, and functions of the run that return one."""
    tools: Tools
    """Functions that the model may call."""
    max_turns: int | None
    """Answers in one run; None is no bound."""
    output_type: Any
    """A type whose value the run returns; None returns the text of the last answer."""
    trace_tools: bool
    """Whether the events of tool calls tell arguments and results."""


async def system_text(instructions: Iterable[Instruction], run: RunContext) -> str:
    """The instructions of one run, joined by blank lines; functions are called, once."""
    texts: list[str] = []
    for each in instructions:
        text = each if isinstance(each, str) else each(run)
        if inspect.isawaitable(text):
            text = await text
        texts.append(typed(text, str, "what a function in instructions returns"))
    return "\n\n".join(filter(None, texts))
