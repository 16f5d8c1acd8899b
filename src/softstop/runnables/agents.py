"""Agents: a body, or a model with tools."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from ..checks import misfit, typed, whole
from ..errors import MisuseError
from ..limits import NO_LIMITS, Limits
from ..protocols import Value
from ..runs.context import RunContext
from ..stops import StopPolicy
from .startable import Startable

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Body = Callable[[RunContext, Any], Awaitable[Any] | AsyncIterator[str]]
Instruction = str | Callable[[RunContext], str | Awaitable[str]]
MOST_TURNS: Final = 50
TEXT: Final[Any] = None  # no `output_type`; a plain None would be the type None to checkers


class Agent(Startable[Value]):
    """A body, or a model with tools, that works in steps and can be stopped between them.

    Takes either a body or a model:

        Agent(body, name="storyteller")
        Agent(model="openai:gpt-5.2", instructions="Tell stories.", tools=[search])

    Args:
        body: `async def body(run, message)` that returns a value, or an async generator of text.
        model: A value of `softstop.models`, a string `provider:model`, or a model of pydantic-ai.
        name: Shown in events; the body's or the model's name if not given.
        id: Names it in routes and events; made from the name if not given.
        description: What it is for; a team's leader reads it, and so does the agent's own model.
        instructions: System text for the model, or a function `(run)` that returns it, sync or async, called at the
            start of each run; several are joined by blank lines.
        tools: Functions that the model may call, sync or async, described to it by name, docstring and types. If the
            first parameter is named `run`, or annotated `RunContext`, it is the run.
        output_type: A type that pydantic can check, or a union: `output.value` is of it, if the run completed, instead
            of the text of the last answer. A result that does not fit is told to the model and asked for again, at
            most twice.
        trace_tools: The events of tool calls tell their arguments and results, which may be private: at most 4,096
            characters of each, without keys and the values of fields that are named like secrets.
        max_turns: Answers of the model in one run; a run that needs more fails. None is no bound.
        limits: Limits of each run, where the call gives none.
        policy: How its runs are stopped, where the call gives no policy.

    Raises:
        MisuseError: Both a body and a model or neither, or an invalid one.
    """

    def __init__(  # noqa: PLR0913 - one flat call, as in all agent libraries; each group is a value already
        self,
        body: Body | None = None,
        *,
        model: Any = None,
        name: str | None = None,
        id: str | None = None,
        description: str = "",
        instructions: Instruction | Sequence[Instruction] = "",
        tools: Sequence[Callable[..., Any]] = (),
        output_type: TypeForm[Value] = TEXT,
        trace_tools: bool = False,
        max_turns: int | None = MOST_TURNS,
        limits: Limits = NO_LIMITS,
        policy: StopPolicy | None = None,
    ) -> None:
        if (body is None) == (model is None):
            raise MisuseError("an agent takes either a body or model=: Agent(body), Agent(model='openai:gpt-5.2')")
        if body is None:
            body = model_body(
                model,
                description,
                instructions,
                tools=tools,
                max_turns=max_turns,
                output_type=output_type,
                trace_tools=trace_tools,
            )
        elif instructions or tools or output_type is not TEXT or trace_tools or max_turns != MOST_TURNS:
            names = "instructions, tools, output_type, trace_tools and max_turns"
            raise MisuseError(f"{names} are for an agent with model=; a body has its own")
        self._body = check_body(body)
        super().__init__("agent", name_of(body) if name in (None, "") else name, id, description, limits, policy)
        self.priced = getattr(body, "priced", True)
        self.check_message = getattr(body, "check_message", None)

    def invoke(self, run: RunContext, message: object) -> Awaitable[Value] | AsyncIterator[str]:
        """Call the body; for the run that owns the call."""
        return self._body(run, message)


def model_body(
    model: Any,
    description: str,
    instructions: Instruction | Sequence[Instruction],
    *,
    tools: Sequence[Callable[..., Any]],
    max_turns: int | None,
    output_type: Any = None,
    trace_tools: bool = False,
) -> Body:
    """Make a body that calls a model, turn after turn. Imports `softstop.models`, an extra, only if it has to.

    Raises:
        MisuseError: The extra is not installed, or one of these is invalid.
    """
    if max_turns is not None:
        whole(max_turns, "max_turns", 1)
    typed(tools, Iterable, "tools")
    single = isinstance(instructions, str) or callable(instructions)
    several = (instructions,) if single else cast("Sequence[Any]", typed(instructions, Sequence, "instructions"))
    texts = [typed(description, str, "description"), *map(_instruction, several)]
    typed(trace_tools, bool, "trace_tools")
    options = {
        "instructions": texts, "tools": tools, "max_turns": max_turns, "output_type": output_type,
        "trace_tools": trace_tools,
    }  # fmt: skip
    if hasattr(model, "make_body") and not isinstance(model, type):
        return cast(Body, model.make_body(**options))
    try:
        models = import_module("softstop.models")
    except ImportError as error:
        raise MisuseError(str(error)) from error
    return cast(Body, models.body_of(model, **options))


def _instruction(given: Any) -> Instruction:
    if not callable(given):
        return typed(cast(str, given), str, "each of instructions")
    if (error := misfit(given, None)) is not None:
        raise MisuseError(f"a function in instructions takes the run: {name_of(given)}, {error}")
    return cast(Instruction, given)


def check_body(body: Any, whose: str = "an agent's") -> Body:
    """Return the body, checked.

    Raises:
        MisuseError: It is not an async function or async generator function of two arguments.
    """
    if not callable(_unwrapped(body)):
        kind = f"{type(body).__module__}.{type(body).__qualname__}"
        raise MisuseError(f"{whose} body is an async function (run, message), not {kind}; {_instead_of(body)}")
    if not is_async(body):
        raise MisuseError(
            f"{whose} body must be `async def`, or it would block every run of the loop: {name_of(body)}; one that "
            "returns an awaitable is wrapped so: async def body(run, message): return await ..."
        )
    check_arguments(body, f"{whose} body")
    return cast(Body, body)


def _instead_of(body: Any) -> str:
    if isinstance(body, str) or hasattr(body, "make_body"):
        return "a model is given by name: Agent(model=...)"
    if inspect.iscoroutine(body) or inspect.isasyncgen(body):
        return f"give the function and do not call it: Agent({body.__name__})"
    return "wrap it: async def body(run, message): ..."


def is_async(body: Any) -> bool:
    """Whether a call of `body` gives a coroutine or an async generator."""
    call: Any = _unwrapped(body)
    if not (inspect.isfunction(call) or inspect.ismethod(call)):
        call = type(call).__call__
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def check_arguments(body: Any, what: str) -> None:
    """Raise MisuseError if `body` cannot be called with (run, message)."""
    if (error := misfit(body, None, None)) is not None:
        raise MisuseError(f"{what} takes (run, message): {name_of(body)}{inspect.signature(body)}, {error}")


def _unwrapped(body: Any) -> Any:
    return body.func if isinstance(body, partial) else body  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]


def name_of(body: Any) -> str:
    """The name of a function, a partial of one, or a callable object's class."""
    call: Any = _unwrapped(body)
    name: str = getattr(call, "__name__", type(call).__name__)
    return name
