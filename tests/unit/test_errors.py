"""Exceptions: one root, branches by who can mend it, facts that survive a pickle, messages that say what to do."""

import inspect
import pickle  # errors cross processes; nothing in src unpickles  # noqa: TID251
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import softstop
from softstop import (
    Agent,
    BudgetExceeded,
    EventsExpired,
    MisuseError,
    RunContext,
    RunErrored,
    RunIdTaken,
    RunNotCancellable,
    RunNotFound,
    RunStopped,
    RunSuperseded,
    SoftstopError,
    StepFailed,
    StepTimeout,
    StoreUnavailable,
    SupervisorClosed,
    errors,
)
from softstop.errors import KeyReused, safe_error
from softstop.ports import AdapterContext

SAMPLES: list[tuple[SoftstopError, dict[str, Any], list[str]]] = [
    (SoftstopError("x"), {}, ["x"]),
    (MisuseError("write str(...) if that is meant"), {}, ["if that is meant"]),
    (KeyReused("k1"), {"key": "k1"}, ["k1", "fresh one"]),
    (RunIdTaken("r1"), {"run_id": "r1"}, ["r1", "leave run_id out"]),
    (SupervisorClosed(), {}, ["open another one"]),
    (RunNotFound("r1"), {"run_id": "r1"}, ["r1"]),
    (RunNotCancellable("r1", "completed"), {"run_id": "r1", "status": "completed"}, ["r1", "completed"]),
    (EventsExpired("r1", 1234), {"run_id": "r1", "trimmed_to": 1234}, ["r1", "1,234", "read its outcome"]),
    (RunSuperseded("r1"), {"run_id": "r1"}, ["r1", "from the store"]),
    (
        RunStopped("r1", "timeout", "too slow"),
        {"run_id": "r1", "cause": "timeout", "reason": "too slow"},
        ["timeout", "too slow"],
    ),
    (RunStopped("r1", "user", None), {"run_id": "r1", "cause": "user", "reason": None}, ["user"]),
    (
        BudgetExceeded("r1", "token_budget", "tokens of run: 120 of 100 used"),
        {"run_id": "r1", "cause": "token_budget", "reason": "tokens of run: 120 of 100 used"},
        ["120 of 100"],
    ),
    (RunErrored("r1", "KeyError: 'x'"), {"run_id": "r1", "error": "KeyError: 'x'"}, ["KeyError"]),
    (StoreUnavailable("disk full"), {"problem": "disk full"}, ["disk full", "again"]),
    (StepTimeout("ask", 2.5), {"step": "ask", "seconds": 2.5}, ["ask", "2.5 s"]),
    (StepFailed("pay", "SystemExit: 3"), {"step": "pay", "error": "SystemExit: 3"}, ["pay", "SystemExit"]),
]
ids = [type(sample).__name__ for sample, *_ in SAMPLES]


def public_errors() -> list[type[BaseException]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BaseException)]


def test_every_exception_of_softstop_has_the_one_root() -> None:
    assert all(issubclass(kind, SoftstopError) for kind in public_errors())
    assert not any(
        issubclass(kind, BaseException) and not issubclass(kind, SoftstopError)
        for _, kind in inspect.getmembers(softstop, inspect.isclass)
    )


def test_branches_tell_who_can_mend_it() -> None:
    assert issubclass(RunIdTaken, MisuseError)
    assert issubclass(SupervisorClosed, MisuseError)
    assert issubclass(BudgetExceeded, RunStopped)
    for kind in (RunNotFound, RunNotCancellable, RunStopped, RunErrored, StepFailed):
        assert not issubclass(kind, MisuseError)


@pytest.mark.parametrize(("error", "facts", "told"), SAMPLES, ids=ids)
def test_facts_are_attributes_and_the_message_tells_them(
    error: SoftstopError, facts: dict[str, Any], told: list[str]
) -> None:
    assert {name: getattr(error, name) for name in facts} == facts
    for part in told:
        assert part in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("error", "facts", "told"), SAMPLES, ids=ids)
def test_an_exception_survives_a_pickle_with_its_facts(
    error: SoftstopError, facts: dict[str, Any], told: list[str]
) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {name: getattr(back, name) for name in facts} == facts


def test_every_exception_class_says_when_it_is_raised() -> None:
    assert [kind.__name__ for kind in public_errors() if not inspect.getdoc(kind)] == []


# -- one bounded line about anything ---------------------------------------------------------------------------------


class Hostile(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__()

    def __str__(self) -> str:
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines\tand\x0b more"), "ValueError: two lines and more"),
        (Hostile(RuntimeError("no")), "Hostile: <str() raised RuntimeError>"),
        (Hostile(RecursionError()), "Hostile: <str() raised RecursionError>"),
        (ExceptionGroup("g", [KeyError("a"), ValueError("b")]), "KeyError: 'a'; ValueError: b"),
        (ExceptionGroup("g", [ExceptionGroup("h", [KeyError("a")])]), "KeyError: 'a'"),
        (BaseExceptionGroup("g", [SystemExit(3), Hostile(RuntimeError())]), "SystemExit: 3; Hostile: <str() raised"),
    ],
    ids=lambda what: type(what).__name__,
)
def test_an_exception_is_told_in_one_line(error: BaseException, line: str) -> None:
    assert safe_error(error).startswith(line)


def test_ctrl_c_in_the_text_of_an_exception_is_the_process_s() -> None:
    with pytest.raises(KeyboardInterrupt):
        safe_error(Hostile(KeyboardInterrupt()))


@given(st.text(alphabet=st.characters()) | st.text(max_size=5).map(lambda text: text * 500), st.integers(20, 600))
def test_the_line_is_one_bounded_and_can_be_sent(text: str, cap: int) -> None:
    for error in (ValueError(text), ExceptionGroup("g", [ValueError(text)] * 100)):
        line = safe_error(error, cap)
        assert len(line) <= cap
        assert len(line.splitlines()) == 1
        assert line.encode()


def test_ten_megabytes_of_message_become_one_short_line() -> None:
    assert len(safe_error(ValueError("x" * 10_000_000))) == 500


def test_locals_and_arguments_of_the_raising_frame_are_not_told() -> None:
    def fail(secret: str) -> None:
        canary = secret
        raise ValueError("no") from KeyError(canary)

    with pytest.raises(ValueError, match="no") as caught:
        fail("canary-4711")
    assert "canary" not in safe_error(caught.value)


async def test_of_very_many_lines_of_errors_the_oldest_stay() -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(150):
            AdapterContext(run).add_error(f"line {number}")

    output = await Agent(body).arun("go")
    assert output.errors == tuple(f"line {number}" for number in range(100))


async def test_what_the_body_raised_is_the_first_line_of_errors_and_the_error_of_the_outcome() -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(150):
            AdapterContext(run).add_error(f"line {number}")
        raise ValueError("broken")

    output = await Agent(body).arun("go")
    assert output.errors[:2] == ("ValueError: broken", "line 0")
    with pytest.raises(RunErrored, match="ValueError: broken") as caught:
        output.raise_for_status()
    assert caught.value.__cause__ is output.error
    assert isinstance(output.error, ValueError)
