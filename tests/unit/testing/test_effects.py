"""`stop_everywhere` finds what users get wrong: effects that a stop tears or repeats, and what the law allows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent

import anyio
import pytest

from softstop import Agent, Run, RunContext, Supervisor
from softstop.testing import LawBroken, Report, stop_everywhere
from softstop.testing.explorer.explore import walk

BOOK: list[str] = []


async def in_no_step(run: RunContext, message: object) -> None:
    BOOK.append("debit")
    await anyio.sleep(0.1)
    BOOK.append("credit")


async def in_a_step(run: RunContext, message: object) -> None:
    async with run.step("transfer"):
        await in_no_step(run, message)


async def beside_a_step(run: RunContext, message: object) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(in_a_step, run, message)
        await anyio.sleep(0.05)
        BOOK.append("mail")


async def clever(run: RunContext, message: object) -> None:
    async with run.step("transfer"):
        BOOK.append("debit")
        await anyio.sleep(0.1)
        if not run.stopping:
            BOOK.append("credit")


async def again(run: RunContext, message: object) -> None:
    try:
        async with run.step("transfer"):
            BOOK.append("debit")
            await anyio.sleep(0.1)
    except asyncio.CancelledError:
        BOOK.append("debit")
        raise


async def goes_on(run: RunContext, message: object) -> None:
    async with run.step("transfer"):
        for _ in range(20):
            try:
                await anyio.sleep(1)
            except asyncio.CancelledError:
                continue
        BOOK.append("debit")


async def refunds(run: RunContext, message: object) -> None:
    run.on_stop(lambda stop: BOOK.append("refund"))
    await in_a_step(run, message)
    await anyio.sleep(0.1)


async def in_a_thread(run: RunContext, message: object) -> None:
    async with run.step("transfer"):
        await anyio.to_thread.run_sync(BOOK.append, "debit")
    async with run.step("mail"):
        await anyio.sleep(0.1)


async def around_a_stream_and_a_member(run: RunContext, message: object) -> None:
    async with run.step("transfer"):
        async for _ in run.stream("read", source()):
            BOOK.append("read")  # noqa: PERF401 - one by one
        await run.member(Agent(in_a_step), message)
        BOOK.append("mail")


def explore(body: object, **options: object) -> Report:
    return stop_everywhere(lambda supervisor: supervisor.start(Agent(body), "go"), effects=BOOK, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "invariant", "found"),
    [
        (in_no_step, "effects_lie_in_steps", "'debit' was done in no step"),
        (beside_a_step, "effects_lie_in_steps", "'mail' was done in no step"),
        (clever, "completed_steps_are_whole", "step 'transfer' of 'clever' is completed with effects ['debit'], of 2"),
        (again, "effects_happen_once", "'debit' was done 2 times, undisturbed 1 times"),
        (goes_on, "effects_precede_the_outcome", "'debit' was done after the outcome"),
    ],
)
def test_an_effect_that_a_stop_can_tear_repeat_or_outrun_breaks_the_law(
    body: object, invariant: str, found: str
) -> None:
    with pytest.raises(LawBroken) as caught:
        explore(body)
    assert (caught.value.invariant, found in caught.value.found) == (invariant, True)
    with pytest.raises(LawBroken) as again_:  # the line that replays it needs no exploration
        explore(body, only=caught.value.schedule)
    assert (again_.value.invariant, again_.value.found) == (invariant, caught.value.found)


@pytest.mark.parametrize("body", [in_a_step, refunds, in_a_thread, around_a_stream_and_a_member])
def test_effects_in_steps_and_in_clean_up_after_a_stop_pass(body: object) -> None:
    assert explore(body, causes=["user", "user_now", "native", "timeout"]).violations == 0


def test_an_effect_of_a_thread_that_outlives_its_run_is_found() -> None:
    def slow() -> None:
        time.sleep(0.05)  # noqa: TID251 - a thread
        BOOK.append("debit")

    async def body(run: RunContext, message: object) -> None:
        async with run.step("transfer"):
            await asyncio.to_thread(slow)

    with pytest.raises(LawBroken, match=r"effects_precede_the_outcome: 'debit' was done after the outcome"):
        explore(body, causes=["user_now"])


def test_the_story_of_a_violation_tells_each_effect_with_its_time_and_its_step() -> None:
    with pytest.raises(LawBroken) as caught:
        explore(clever)
    lines = [line.split(maxsplit=3)[-1] for line in caught.value.story.splitlines()]
    assert lines[2] == "effect 'debit' in step 'transfer'"


def test_effects_may_come_from_a_function_that_is_asked_after_the_scenario_was_made() -> None:
    books: list[list[str]] = []

    def make_run(supervisor: Supervisor) -> Run:
        book: list[str] = ["opened"]
        books.append(book)

        async def body(run: RunContext, message: object) -> None:
            book.append("debit")

        return supervisor.start(Agent(body))

    with pytest.raises(LawBroken, match="'debit' was done in no step"):
        stop_everywhere(make_run, effects=lambda: books[-1])


def test_state_that_a_scenario_keeps_from_stopped_plays_is_found() -> None:
    stopped: list[object] = []

    async def remembers(run: RunContext, message: object) -> None:
        await anyio.sleep(len(stopped))
        try:
            await anyio.sleep(1)
        except asyncio.CancelledError:
            stopped.append(message)
            raise

    with pytest.raises(LawBroken, match="no_state_is_kept: after the other schedules") as caught:
        stop_everywhere(lambda supervisor: supervisor.start(Agent(remembers)), causes=["user"])
    assert caught.value.schedule == "undisturbed"


# -- What is only noticed ---------------------------------------------------------------------------------------------


async def swallows(run: RunContext, message: object) -> None:
    try:
        await anyio.sleep(1)
    except asyncio.CancelledError:
        return


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await anyio.sleep(40)


async def source() -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        await anyio.lowlevel.checkpoint()


async def leaves_open(run: RunContext, message: object) -> None:
    async for _ in source():
        await anyio.sleep(1)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (swallows, "the body of 'swallows' returned although it was cancelled"),
        (slow, "step 'pay' of 'slow' takes 40 s, and a stop cuts it after its grace of 30 s"),
        (leaves_open, "async generator 'source' was left open, and cleaned up later by itself"),
    ],
)
def test_a_mistake_that_the_law_allows_is_noticed_and_breaks_the_law_if_strict(body: object, line: str) -> None:
    report = explore(body, causes=["user"])
    (noticed,) = report.noticed
    assert noticed.startswith(line)
    assert f"times {noticed}; first: {report.where[noticed]}" in str(report)
    with pytest.raises(LawBroken, match=f"noticed: {line}"):
        explore(body, causes=["user"], strict=True)


def test_nothing_is_noticed_of_an_agent_that_is_stopped_well() -> None:
    assert explore(in_a_step, strict=True).noticed == {}


def test_progress_is_told_after_each_schedule() -> None:
    told: list[tuple[int, int]] = []
    report = explore(in_a_step, causes=["user"], most=7, progress=lambda played, of: told.append((played, of)))
    assert told == [(number, 7) for number in range(1, 8)]
    assert report.schedules == 2 + 7 + 1


def test_without_effects_none_is_watched() -> None:
    BOOK.clear()
    found = [breach for _, breaches in walk(lambda supervisor: supervisor.start(Agent(in_no_step)), causes=["user"])
             for breach in breaches]  # fmt: skip
    assert (found, BOOK != []) == ([], True)


# -- The fixture ------------------------------------------------------------------------------------------------------

TESTS = """
    import asyncio
    import pytest
    import softstop.testing.fixture
    from softstop import Agent

    softstop.testing.fixture.QUIET = 0.0

    async def good(run, message):
        async with run.step("pay"):
            await asyncio.sleep(0.1)

    async def bad(run, message):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass

    @pytest.mark.parametrize("agent", [good, bad])
    def test_it_can_be_stopped(stops, agent):
        stops(lambda supervisor: supervisor.start(Agent(agent)), causes=["user"])
"""


def test_the_fixture_is_strict_and_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(dedent(TESTS), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "softstop.testing.fixture", "--color=yes", "-rP", "test_it.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout
    assert "1 failed" in done.stdout
    assert "LawBroken: noticed: the body of 'bad' returned although it was cancelled" in done.stdout
    assert f"[{'#' * 30}] 100 % of " in done.stdout
    assert "0 violations" in done.stdout
