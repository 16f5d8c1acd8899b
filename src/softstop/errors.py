"""All exceptions, as a tree whose branches say what the caller can do; and errors as bounded lines of text.

SoftstopError
    MisuseError             fix the call
        InvalidValue        a wrong number or name in Limits(...), Usage(...), ...; also a ValueError
        NoSuchAttribute     it belongs to something else; also an AttributeError
        KeyReused           the key of a start belongs to another wish
        RunIdTaken
        SupervisorClosed
    RunNotFound             no such run here
    RunNotCancellable       it has ended already
    NotWaiting              no such call waits for a decision any more, or yet
    EventsExpired           the store keeps that part of its log no longer: read its outcome
    RunSuperseded           another owner has taken the run over: read its events from the store
    RunStopped              raised only by `raise_for_status()`: the run was cancelled
        BudgetExceeded      ... because a limit or budget ran out: give more
    RunErrored              raised only by `raise_for_status()`: the run failed
    StoreUnavailable        a store cannot be read or written now: try again
    StepFailed              a step's own code raised CancelledError, SystemExit or the like
    StepTimeout             a step was cut when its own `timeout` was over; also a TimeoutError
    MemberFailed            a team or workflow cannot go on without one of its members
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar, cast

import pydantic


class SoftstopError(Exception):
    """Root of every exception that softstop raises."""


class MisuseError(SoftstopError):
    """The call is wrong; raised in the caller's frame, nothing was started."""


class InvalidValue(MisuseError, ValueError):
    """A value of softstop was built with a wrong number, text or name."""


class NoSuchAttribute(MisuseError, AttributeError):
    """The attribute is one of something else, which the message names."""


class KeyReused(MisuseError):
    """A run was started with this key before, and what was asked for then was something else; nothing was started."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)

    def __str__(self) -> str:
        return f"the key {self.key!r} came with another request before; take a fresh one"


class RunIdTaken(MisuseError):
    """Another run has this id: a live one, or one that the store keeps."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(run_id)

    def __str__(self) -> str:
        return f"another run has the id {self.run_id!r} already; leave run_id out to get a fresh one"


class SupervisorClosed(MisuseError):
    """The supervisor drains or has been left; it admits no run any more."""

    def __str__(self) -> str:
        return "this supervisor is draining or closed and admits no new run; open another one"


class RunNotFound(SoftstopError):
    """No live or remembered run has this id."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(run_id)

    def __str__(self) -> str:
        return f"no run {self.run_id!r:.80} here; it never existed, or it ended long ago and is no longer remembered"


class RunNotCancellable(SoftstopError):
    """The run had ended before the stop was requested."""

    def __init__(self, run_id: str, status: str) -> None:
        self.run_id, self.status = run_id, status
        super().__init__(run_id, status)

    def __str__(self) -> str:
        return f"run {self.run_id!r} is already {self.status}; there is nothing left to cancel"


class NotWaiting(SoftstopError):
    """A decision is about a call that does not wait for one: it was decided, or its run was stopped or has ended."""

    def __init__(self, run_id: str, call_id: str, status: str) -> None:
        self.run_id, self.call_id, self.status = run_id, call_id, status
        super().__init__(run_id, call_id, status)

    def __str__(self) -> str:
        return (
            f"no call {self.call_id!r:.80} of run {self.run_id!r}, which is {self.status}, waits for a decision: "
            "it was decided, or the run was stopped; its events tell"
        )


class EventsExpired(SoftstopError):
    """The first events of a run that ended long ago are no longer kept; its outcome is, in its record."""

    def __init__(self, run_id: str, trimmed_to: int) -> None:
        self.run_id, self.trimmed_to = run_id, trimmed_to
        super().__init__(run_id, trimmed_to)

    def __str__(self) -> str:
        return (
            f"the events of run {self.run_id!r} up to {self.trimmed_to:,} are no longer kept; read its outcome, "
            "or read on after those"
        )


class RunSuperseded(SoftstopError):
    """Another owner has the run in the store: it took it over, or the id was taken; raised where an outcome is read.

    What this process knows of the run's end is not what happened: its events and its one outcome are in the store.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(run_id)

    def __str__(self) -> str:
        run = f"run {self.run_id!r}"
        return f"{run} was taken over by another owner, or another run had its id; read how it went on from the store"


class RunStopped(SoftstopError):
    """A run was cancelled; raised by `RunOutput.raise_for_status()`.

    `output` is that RunOutput, with the partial work; None where the run has not ended, and after a pickle. Let out of
    the body of another run it is that run's failure; to stop that run instead, call `softstop.cancel_run` with its id.
    """

    output: Any = None

    def __init__(self, run_id: str, cause: str, reason: str | None) -> None:
        self.run_id, self.cause, self.reason = run_id, cause, reason
        super().__init__(run_id, cause, reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args  # an output may hold what cannot be pickled

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"run {self.run_id!r} was cancelled, cause {self.cause}{why}; its partial work is in the output"


class BudgetExceeded(RunStopped):
    """A limit or a shared budget ran out.

    Raised by `raise_for_status()` of a run that was cancelled for that, and by a reservation inside a begun step that
    finds no room: the step may handle it, and the run stops at its next boundary.
    """

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"run {self.run_id!r} ran out of its {self.cause}{why}; what is done is kept, raise the limit for more"


class RunErrored(SoftstopError):
    """A run failed; the original exception is `__cause__`."""

    def __init__(self, run_id: str, error: str) -> None:
        self.run_id, self.error = run_id, error
        super().__init__(run_id, error)

    def __str__(self) -> str:
        return f"run {self.run_id!r} failed: {self.error}"


class StepFailed(SoftstopError):
    """A step raised `CancelledError`, `SystemExit` or the like by itself: that is the step's failure, not a stop."""

    def __init__(self, step: str, error: str) -> None:
        self.step, self.error = step, error
        super().__init__(step, error)

    def __str__(self) -> str:
        return f"step {self.step!r} raised {self.error} although nothing interrupted it; it counts as failed"


class StoreUnavailable(SoftstopError):
    """A store cannot be read or written now: it is locked, full, read-only or damaged. Runs go on meanwhile."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)

    def __str__(self) -> str:
        return f"the store cannot be used: {self.problem}; nothing of it was stored; try again once that is mended"


class StepTimeout(SoftstopError, TimeoutError):
    """A step was cut since its own `timeout` was over; raised where it is left. The run goes on."""

    def __init__(self, step: str, seconds: float) -> None:
        self.step, self.seconds = step, seconds
        super().__init__(step, seconds)

    def __str__(self) -> str:
        return f"step {self.step!r} took more than its {self.seconds:g} s and was cut; it may have happened in part"


class MemberFailed(SoftstopError):
    """A member or step has no result, and the run needs it; the member's own exception is `__cause__`."""

    def __init__(self, member: str, problem: str) -> None:
        self.member, self.problem = member, problem
        super().__init__(member, problem)

    def __str__(self) -> str:
        return f"{self.member!r} {self.problem}; to go on without it, wrap it: BestEffort(...)"


M = TypeVar("M", bound=pydantic.BaseModel)

if TYPE_CHECKING:
    CheckedModel = pydantic.BaseModel
else:

    class _BuiltByCallers(type(pydantic.BaseModel)):
        def __call__(cls, *args, **fields):
            if args:
                name = next(iter(cls.model_fields))
                raise InvalidValue(f"{cls.__name__} takes its values by name: {cls.__name__}({name}={args[0]!r:.80})")
            try:
                return cls.__pydantic_validator__.validate_python(fields)  # as `BaseModel.__init__` does
            except pydantic.ValidationError as error:
                problem = first_problem(error)
                if error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] in UNKNOWN:
                    problem += f"; it takes {', '.join(cls.model_fields)}"
                raise InvalidValue(f"{cls.__name__}: {problem}") from None

    class CheckedModel(pydantic.BaseModel, metaclass=_BuiltByCallers):
        """A pydantic model whose constructor raises a MisuseError; `model_validate` raises pydantic's own."""


UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class AsyncOnly:
    """A thing says what to write where Python's own error for `with` or `for` on it would not."""

    __slots__ = ()
    _USE: ClassVar[str]  # what to write instead

    if not TYPE_CHECKING:  # checkers tell it by themselves

        def __enter__(self) -> NoReturn:
            raise MisuseError(f"{type(self).__name__} is not used so; write {self._USE}")

        def __exit__(self, *exc: object) -> None: ...  # Python looks for both

        def __iter__(self) -> NoReturn:
            self.__enter__()


class AsyncBlock(AsyncOnly):
    """The same for `await`, where nobody takes what has an `__await__` for a value that is to come."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            self.__enter__()


class StaysHere:
    """A thing of this process: its copy is itself, since dataclasses and models copy what they hold; a pickle fails."""

    __slots__ = ()
    _SEND: ClassVar[str]  # to another process instead

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise MisuseError(f"{self!r} belongs to this process; {self._SEND}")


class _Elsewhere:
    """An attribute that another class has."""

    def __init__(self, hint: str) -> None:
        self._hint = self.__doc__ = hint

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise NoSuchAttribute(self._hint)


class SaysWhere(StaysHere):
    """A thing says of the public names that only another class has how to get there.

    By an attribute for each: with a `__getattr__`, each `run.write` costs 530 ns instead of 440.
    """

    __slots__ = ()
    _ELSEWHERE: ClassVar[tuple[type, str]]  # the other class, and a hint that takes the name

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        other, hint = cls._ELSEWHERE
        for name in dir(other):
            if not (name.startswith("_") or hasattr(cls, name)):
                setattr(cls, name, _Elsewhere(hint.format(name)))

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if hasattr(type(self), name)]


def checked(model: type[M], values: Mapping[str, Any], what: str) -> M:
    """Validate a value of a pydantic model.

    Raises:
        MisuseError: With the first problem in one line: "`what`: field: problem".
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise MisuseError(f"{what}: {first_problem(error)}") from None


def first_problem(error: pydantic.ValidationError) -> str:
    """The first problem in one line, without the value, which may be long or private."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:60]
    return one_line(f"{where or 'value'}: {first['msg']}", 200)


MOST_ERRORS = 100  # lines in the `errors` of an outcome
MOST_IN_GROUP = 8  # exceptions of a group in its line


def unfold(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and, if it is a group, all exceptions inside it."""
    todo = [] if exc is None else [exc]
    while todo:  # without recursion, for groups in groups
        inner = todo.pop()
        yield inner
        if isinstance(inner, BaseExceptionGroup):
            todo += reversed(cast("BaseExceptionGroup[BaseException]", inner).exceptions)


def process_interrupt(exc: BaseException | None) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt in an exception or group: it belongs to the process, not to a run (T20)."""
    return next((inner for inner in unfold(exc) if isinstance(inner, KeyboardInterrupt)), None)


def safe_error(exc: BaseException, cap: int = 500) -> str:
    """Describe an exception in one bounded line, even if its `str()` raises; a group by its exceptions. No locals."""
    if not isinstance(exc, BaseExceptionGroup):
        return one_line(_described(exc), cap)
    inside = [inner for inner in unfold(cast(BaseException, exc)) if not isinstance(inner, BaseExceptionGroup)]
    more = f"; and {len(inside) - MOST_IN_GROUP} more" if len(inside) > MOST_IN_GROUP else ""
    return one_line("; ".join(map(_described, inside[:MOST_IN_GROUP])) + more, cap)


def _described(exc: BaseException) -> str:
    try:
        text = str(exc)
    except KeyboardInterrupt:
        raise
    except BaseException as hostile:  # noqa: BLE001, ASYNC103 - the error path must survive a hostile __str__
        text = f"<str() raised {type(hostile).__name__}>"
    name = type(exc).__name__
    return f"{name}: {text}" if text.split() else name


def one_line(text: str, cap: int = 500) -> str:
    """The text on one line, with at most `cap` characters, encodable as UTF-8."""
    return bounded(" ".join(text.split()), cap)


def bounded(text: str, cap: int) -> str:
    """The text with at most `cap` characters, encodable as UTF-8."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= cap else text[: cap - 1] + "…"
