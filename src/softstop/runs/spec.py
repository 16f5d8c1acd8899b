"""The options of a run, its checked spec and its output, as plain values."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, Self, TypedDict, TypeVar, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema, from_json, to_json, to_jsonable_python

from ..checks import identified, named, typed
from ..errors import BudgetExceeded, MisuseError, RunErrored, RunStopped
from ..events import StepRecord
from ..law.budgets import Budget
from ..law.locks import in_forked_child
from ..limits import NO_LIMITS, Limits
from ..protocols import Runnable, Value, check_message
from ..stops import BUDGET_CAUSES, RunStatus, StopPolicy, StopRequest
from ..usage import NO_USAGE, Usage

T = TypeVar("T")
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # of a UUID: the two top bits are 10
_tails: Final[list[str]] = []  # of ids to come
in_forked_child(_tails.clear)
NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})


class RunOptions(TypedDict, total=False):
    """The keywords of one run; the same wherever a run is started.

    Args:
        run_id: 1 to 64 ASCII letters, digits and `._:-`; None makes a fresh one. No two live runs share an id.
        limits: Limits of this run; each one not given is the agent's, else the supervisor's.
        budgets: Ledgers this run shares with others.
        policy: How this run is stopped; None takes the agent's, else the supervisor's.
        user_id: Whose run this is, in 1 to 1,000 characters; a member's is its parent's, if not given.
        session_id: The conversation it belongs to, in 1 to 1,000 characters; a member's is its parent's, if not given.
        continue_from: An ended run, or its id, whose conversation goes on: a model sees its messages before the new
            one.
        metadata: Data of the caller's by name; a copy is kept, read-only and never interpreted. What it holds is not
            copied.
    """

    run_id: str | None
    limits: Limits | None
    budgets: Sequence[Budget]
    policy: StopPolicy | None
    user_id: str | None
    session_id: str | None
    continue_from: RunOutput | str | None
    metadata: Mapping[str, Any]


class RunSpec(NamedTuple):
    """One checked request to run something."""

    runnable: Runnable
    message: Any
    run_id: str
    limits: Limits = NO_LIMITS
    budgets: tuple[Budget, ...] = ()
    policy: StopPolicy | None = None
    user_id: str | None = None
    session_id: str | None = None
    metadata: Mapping[str, Any] = NO_METADATA
    history: tuple[Any, ...] = ()

    @classmethod
    def check(cls, runnable: Runnable, message: object, options: RunOptions) -> Self:
        """Build a spec from a caller's keywords.

        Raises:
            MisuseError: An unknown keyword, a malformed id, a value of the wrong type, or a message that the runnable
                does not take.
        """
        if not options:
            check_message(runnable, message)
            return cls(runnable, message, fresh_id())
        unknown = set(options) - set(RunOptions.__annotations__)
        if unknown:
            raise MisuseError(
                f"unknown option {sorted(unknown)[0]!r}; a run takes {', '.join(RunOptions.__annotations__)}"
            )
        run_id = options.get("run_id")
        earlier = _given(options, "continue_from", RunOutput)
        history = () if earlier is None else earlier.messages
        check_message(runnable, message, history)
        return cls(
            runnable,
            message,
            fresh_id() if run_id is None else identified(run_id, "run_id"),
            _given(options, "limits", Limits) or NO_LIMITS,
            _budgets(options.get("budgets")),
            _given(options, "policy", StopPolicy),
            _owner(options, "user_id"),
            _owner(options, "session_id"),
            _metadata(options.get("metadata")),
            history,
        )


def _given(options: RunOptions, name: str, kind: type[T]) -> T | None:
    value = cast("T | None", options.get(name))
    return None if value is None else typed(value, kind, name)


def _owner(options: RunOptions, name: str) -> str | None:
    value = options.get(name)
    return None if value is None else named(cast(str, value), name)


def _budgets(given: object) -> tuple[Budget, ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise MisuseError(f"budgets takes a list: budgets=[...], not {type(given).__name__}")
    return tuple(typed(budget, Budget, "each of budgets") for budget in cast("Sequence[Budget]", given))


def _metadata(given: object) -> Mapping[str, Any]:
    if given is None:
        return NO_METADATA
    metadata = dict(cast("Mapping[str, Any]", typed(given, Mapping, "metadata")))
    for key in metadata:
        typed(key, str, "each key of metadata")
    return MappingProxyType(metadata)


@dataclass(frozen=True, slots=True)
class OutputAsJson:
    """A RunOutput on its way to JSON, and as a JSON schema describes it."""

    run_id: str
    status: RunStatus
    content: str
    value: Any
    usage: Usage
    total_usage: Usage
    stop: StopRequest | None
    steps: tuple[StepRecord, ...]
    members: list[dict[str, Any]]
    errors: tuple[str, ...]
    abandoned: tuple[str, ...]
    finish_reason: str | None


def plain(value: object) -> Any:
    """The value of a body as JSON-able data, whatever it is."""
    if isinstance(value, Iterator):
        return _kind_of(cast(object, value))  # pydantic would consume it
    try:
        return from_json(to_json(value, bytes_mode="base64", inf_nan_mode="null", fallback=_kind_of))
    except Exception:  # noqa: BLE001 - boundary: a user's value, which may be endless, or raise
        return _kind_of(value)


def _kind_of(value: object) -> str:
    return f"<{type(value).__name__}>"


@dataclass(frozen=True, slots=True)
class RunOutput(Generic[Value]):
    """The result of a run, also of one that was stopped or failed: data, not an exception.

    `content` is the text that was written, up to the stop; `value` the body's return value, or the result of an
    agent's `output_type`, None unless the run completed; `usage` that of the run
    itself, `total_usage` with all its members; `stop` the recorded request, also when the run completed anyway;
    `members` the outputs of member runs in the order of their start; `errors` at most a hundred bounded lines;
    `messages` the conversation of an agent with a model, in pydantic-ai's types and valid to continue from;
    `finish_reason` how its model's last answer ended, as in `ModelRequestCompleted`.
    """

    run_id: str
    status: RunStatus
    content: str = ""
    value: Value = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType] - unless it completed
    usage: Usage = NO_USAGE
    total_usage: Usage = NO_USAGE
    stop: StopRequest | None = None
    steps: tuple[StepRecord, ...] = ()
    members: tuple[RunOutput, ...] = ()
    errors: tuple[str, ...] = ()
    abandoned: tuple[str, ...] = ()
    messages: tuple[Any, ...] = field(default=(), repr=False)
    finish_reason: str | None = None
    error: BaseException | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The output and those of its members as JSON-able Python data; without `messages` and `error`.

        The error of a failed run is the first line of `errors`, its type and text. `value` is as pydantic writes it;
        what cannot be written there is the name of its type: "<socket>".
        """
        plain: dict[str, Any] = to_jsonable_python(self._wired())
        return plain

    def to_json(self) -> bytes:
        """The same as one JSON object on one line, UTF-8."""
        return to_json(self._wired())

    def _wired(self) -> OutputAsJson:
        told = {each.name: getattr(self, each.name) for each in fields(OutputAsJson)}
        told |= {"value": plain(self.value), "members": [member.to_dict() for member in self.members]}
        return OutputAsJson(**told)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        wire = handler.generate_schema(OutputAsJson)
        serial = core_schema.plain_serializer_function_ser_schema(cls._wired, return_schema=wire)
        return core_schema.is_instance_schema(cls, serialization=serial)

    def raise_for_status(self) -> Self:
        """Return the output of a completed run.

        Raises:
            BudgetExceeded: The run was cancelled because a limit or budget ran out.
            RunStopped: The run was cancelled for another cause.
            RunErrored: The run failed; the original exception is its `__cause__`.
        """
        if self.status is RunStatus.cancelled and self.stop is not None:
            kind = BudgetExceeded if self.stop.cause in BUDGET_CAUSES else RunStopped
            stopped = kind(self.run_id, self.stop.cause.value, self.stop.reason)
            stopped.output = self
            raise stopped
        if self.status is RunStatus.failed:
            raise RunErrored(self.run_id, self.errors[0] if self.errors else "unknown") from self.error
        return self


def fresh_id() -> str:
    """A UUID version 7 (RFC 9562): sorts by time, 74 random bits."""
    try:
        tail = _tails.pop()
    except IndexError:
        _tails.extend(_random_tails())
        return fresh_id()
    time_ms = (time.time_ns() // 1_000_000).to_bytes(6, "big").hex()
    return f"{time_ms[:8]}-{time_ms[8:]}{tail}"


def _random_tails() -> list[str]:
    """Random parts of ids, many at once: what the system takes for each is a third of the cost of an id."""
    digits = os.urandom(19 * 128).hex()
    parts = [digits[start : start + 19] for start in range(0, len(digits), 19)]
    return [f"-7{part[:3]}-{_VARIANT[part[3]]}{part[4:7]}-{part[7:]}" for part in parts]
