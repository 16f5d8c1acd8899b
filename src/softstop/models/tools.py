"""Tools: functions that a model may call, with their schemas."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Protocol, get_type_hints

from pydantic import PydanticUserError, ValidationError
from pydantic_ai import ModelRetry, Tool, UserError
from pydantic_ai.messages import RetryInfo, ToolCallPart, ToolReturnPart
from pydantic_ai.tools import ToolDefinition

from ..errors import BudgetExceeded, MisuseError, SoftstopError, safe_error
from ..runs.adapter import AdapterContext
from ..runs.context import RunContext
from .endings import sound

UNKNOWN_OPTIONS: Final = ("sequential", "prepare", "args_validator", "defer_loading")

Tools = Iterable[Callable[..., Any] | Tool[Any]]
Arguments = str | dict[str, Any] | None
Cause = Literal["unknown_tool", "validation_error"]


class BadCall(SoftstopError):
    """A tool call that the model can correct: an unknown tool, or invalid arguments."""

    def __init__(self, cause: Cause, problem: str) -> None:
        self.cause: Cause = cause
        self.problem = problem
        super().__init__(cause, problem)

    def __str__(self) -> str:
        return self.problem


class Check(Protocol):
    """What checks values: a validator or a type adapter of pydantic."""

    def validate_python(self, value: Any, /) -> Any:
        """The checked value."""
        ...

    def validate_json(self, text: str, /) -> Any:
        """The checked value of a JSON text."""
        ...


def arguments_of(check: Check, given: Arguments) -> Any:
    """The arguments of a call, checked.

    Raises:
        BadCall: They do not fit, or are no JSON.
    """
    try:
        return check.validate_python(given) if isinstance(given, dict) else check.validate_json(given or "{}")
    except ValidationError as error:
        raise BadCall("validation_error", f"invalid arguments: {_problems(error)}"[:1_000]) from None


class ReadyTool(NamedTuple):
    """A function with its schema."""

    function: Callable[..., Any]
    tool: Tool[Any]
    takes_run: bool
    is_async: bool

    @property
    def interruptible(self) -> bool:
        """Whether a cut leaves no doubt whether it happened: `Tool(f, metadata={"interruptible": True})`."""
        return bool((self.tool.metadata or {}).get("interruptible"))

    async def call(self, door: AdapterContext, call: ToolCallPart) -> ToolReturnPart:
        """Check the arguments, call the function, check that its result can be serialized."""
        args, named = self._arguments(call.args)
        work = partial(self.function, *([door.run] if self.takes_run else []), *args, **named)
        result: Any
        if self.is_async:
            result = await work()
        else:
            result = await door.in_thread(work)
            if inspect.isawaitable(result):
                result = await result
        answer = ToolReturnPart(call.tool_name, sound(result), call.tool_call_id)
        answer.model_response_str()
        return answer

    def waits_for_approval(self, call: ToolCallPart) -> bool:
        """Whether a person must approve the call first; nobody is asked about one that cannot be made."""
        if not self.tool.requires_approval:
            return False
        try:
            self._arguments(call.args)
        except BadCall:
            return False
        return True

    def _arguments(self, given: Arguments) -> tuple[list[Any], dict[str, Any]]:
        schema = self.tool.function_schema
        named: dict[str, Any] = arguments_of(schema.validator, given)
        args = [named.pop(name) for name in schema.positional_fields]
        if schema.var_positional_field is not None:
            args.extend(named.pop(schema.var_positional_field))
        return args, named


class Toolbox:
    """The tools of an agent, by name.

    Raises:
        MisuseError: An invalid tool, or two with the same name.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools: dict[str, ReadyTool] = {}
        for tool in tools:
            ready = to_tool(tool)
            if ready.tool.name in self._tools:
                raise MisuseError(f"two tools are named {ready.tool.name!r}; a model could not tell them apart")
            self._tools[ready.tool.name] = ready
        self.definitions: list[ToolDefinition] = [ready.tool.tool_def for ready in self._tools.values()]

    def find(self, name: str) -> ReadyTool | None:
        """The tool with this name."""
        return self._tools.get(name)

    def get(self, name: str) -> ReadyTool:
        """The tool with this name.

        Raises:
            BadCall: The agent has no such tool.
        """
        if name not in self._tools:
            known = ", ".join(self._tools) or "none"
            raise BadCall("unknown_tool", f"there is no tool {name!r:.100}; there are: {known}")
        return self._tools[name]


def to_tool(tool: Callable[..., Any] | Tool[Any]) -> ReadyTool:
    """Make a tool of a function; the model gets its name, docstring, parameters and their types.

    Raises:
        MisuseError: It is no function, or its parameters cannot be described.
    """
    if isinstance(tool, Tool):
        return _described(tool)  # pyright: ignore[reportUnknownArgumentType]
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise MisuseError(f"a tool is a function, sync or async, not {tool!r:.100}; write one that calls it")
    _check_function(tool, tool.__name__)
    try:
        takes_run = _takes_run(tool)
        shown = _without_run(tool) if takes_run else tool
        return ReadyTool(tool, Tool(shown, takes_ctx=False), takes_run, inspect.iscoroutinefunction(tool))
    except (UserError, PydanticUserError, NameError, TypeError) as error:
        told = str(error).partition("\n")[0]
        raise MisuseError(f"tool {tool.__name__!r} cannot be described to a model: {told}") from error


def _described(tool: Tool[Any]) -> ReadyTool:
    if tool.takes_ctx:
        raise MisuseError(
            f"tool {tool.name!r} takes pydantic-ai's RunContext; give the function itself, with softstop's"
        )
    for option in UNKNOWN_OPTIONS:
        if getattr(tool, option):
            raise MisuseError(f"tool {tool.name!r} has {option}, which this turn loop does not know; leave it out")
    function: Callable[..., Any] = tool.function
    _check_function(function, tool.name)
    return ReadyTool(function, tool, False, inspect.iscoroutinefunction(function))


def _check_function(function: Callable[..., Any], name: str) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise MisuseError(f"tool {name!r} yields, and its answer is one value: return it, perhaps as a list")


def _takes_run(function: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(function).parameters)
    return bool(parameters) and (parameters[0] == "run" or get_type_hints(function).get(parameters[0]) is RunContext)


def _without_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without its parameter `run`, for the schema; never called."""
    shown: Any = partial(function, None)
    shown.__name__, shown.__qualname__ = function.__name__, function.__qualname__
    shown.__module__ = function.__module__
    return shown  # type: ignore[no-any-return]


def failed_answer(call: ToolCallPart, error: Exception) -> ToolReturnPart:
    """The answer to a call that failed, in one line; marked for a retry if the model can correct the call."""
    name, call_id = call.tool_name, call.tool_call_id
    if isinstance(error, BadCall):
        return ToolReturnPart(name, sound(str(error)), call_id, outcome="retried", retry=RetryInfo[Cause](error.cause))
    if isinstance(error, ModelRetry):
        return ToolReturnPart(name, sound(error.message), call_id, outcome="retried", retry=RetryInfo("model_retry"))
    return ToolReturnPart(name, safe_error(error), call_id, outcome="failed")


def denied_answer(call: ToolCallPart, reason: str | None) -> ToolReturnPart:
    """The answer to a call that a person has refused."""
    text = f"refused: {reason or 'this call was not approved'}"
    return ToolReturnPart(call.tool_name, sound(text), call.tool_call_id, outcome="denied")


def refused_answer(call: ToolCallPart, error: BudgetExceeded) -> ToolReturnPart:
    """The answer to a call beyond the number that the run may make."""
    text = f"not_run: {error.reason}; no tool is called any more"
    return ToolReturnPart(call.tool_name, text, call.tool_call_id, outcome="failed")


def _problems(error: ValidationError) -> str:
    """All problems in one line, without the values, which may be long or private."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}" for problem in problems)
