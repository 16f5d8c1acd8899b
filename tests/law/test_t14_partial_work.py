"""T14: what was delivered is what the outcome holds; each begun step is told by what is known of it."""

import asyncio

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.runs import Words, at, listen, one
from softstop import (
    Agent,
    Event,
    RunCancelled,
    RunContent,
    RunContext,
    RunOutput,
    RunStatus,
    StopPolicy,
    Supervisor,
)
from softstop.testing import run_virtual

texts = st.text(alphabet=st.characters(), max_size=20)  # lone surrogates included
plans = st.lists(
    st.one_of(
        st.tuples(st.just("write"), texts),
        st.tuples(st.just("sleep"), st.integers(1, 3)),
        st.tuples(st.just("step"), texts),
        st.tuples(st.just("stream"), st.lists(texts, max_size=3)),
    ),
    max_size=8,
)


def delivered(events: list[Event]) -> str:
    return "".join(event.content for event in events if isinstance(event, RunContent))


async def follow(plan: list[tuple[str, object]], stop_at: float, grace: float) -> list[Event]:
    async def body(run: RunContext, message: object) -> None:
        for verb, what in plan:
            if verb == "write":
                run.write(str(what))
            elif verb == "sleep":
                await anyio.sleep(float(what))  # type: ignore[arg-type]
            elif verb == "step":
                async with run.step("step"):
                    await anyio.sleep(1)
                    run.write(str(what))
                    await anyio.sleep(1)
            else:

                async def source(chunks: object = what):  # type: ignore[no-untyped-def]
                    for chunk in chunks:  # type: ignore[attr-defined]
                        await anyio.sleep(0.5)
                        yield chunk

                async for chunk in run.stream("stream", source()):
                    run.write(chunk)

    async with Supervisor(policy=StopPolicy(grace=grace)) as supervisor:
        run = supervisor.start(Agent(body))
        at(stop_at, run.cancel)
        return await listen(run)


@settings(max_examples=150, deadline=None)
@given(plans, st.floats(0, 10), st.sampled_from([0.0, 0.7, 30.0]))
def test_the_content_of_the_outcome_is_exactly_what_was_delivered(
    plan: list[tuple[str, object]], stop_at: float, grace: float
) -> None:
    events = run_virtual(follow, plan, stop_at, grace)
    assert events[-1].content == delivered(events)
    assert events[-1].content.encode().decode() == events[-1].content  # and can be sent to anybody


async def test_every_begun_step_is_listed_once_with_how_it_ended() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("done"):
            await anyio.sleep(1)
        try:
            async with run.step("failed"):
                raise ValueError("no")
        except ValueError:
            pass
        async with anyio.create_task_group() as group:
            for name, interruptible in (("cut", True), ("unsettled", False)):

                async def work(name: str = name, interruptible: bool = interruptible) -> None:
                    async with run.step(name, interruptible=interruptible):
                        await anyio.sleep(1_000)

                group.start_soon(work)
            async for word in run.stream("streamed", Words()):
                run.write(word)

    run, events = await one(body, stop_at=3.5, policy=StopPolicy(grace=1))
    outcome = events[-1]
    assert isinstance(outcome, RunCancelled)
    told = {step.step: (step.kind, step.status) for step in outcome.steps}
    assert told == {
        "done": ("atomic", "completed"),
        "failed": ("atomic", "failed"),
        "cut": ("atomic", "cut"),
        "unsettled": ("atomic", "unsettled"),
        "streamed": ("divisible", "cut"),
    }
    assert len(outcome.steps) == 5
    assert sorted(step.step_id for step in outcome.steps) == [1, 2, 3, 4, 5]
    assert run.output is not None
    assert run.output.steps == outcome.steps


async def test_finished_steps_are_listed_in_the_order_in_which_they_ended() -> None:
    async def body(run: RunContext, message: object) -> None:
        async def work(name: str, seconds: float) -> None:
            async with run.step(name):
                await anyio.sleep(seconds)

        async with anyio.create_task_group() as group:
            for name, seconds in (("slow", 9.0), ("quick", 2.0), ("middle", 5.0)):
                group.start_soon(work, name, seconds)
        await anyio.sleep(1_000)

    run, _ = await one(body, stop_at=10)
    assert [(s.step, s.step_id) for s in run.output.steps] == [("quick", 2), ("middle", 3), ("slow", 1)]  # type: ignore[union-attr]


async def test_a_step_that_was_cut_but_ended_whole_is_completed() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            try:
                await anyio.sleep(1_000)
            except asyncio.CancelledError:
                run.write("committed after all")
        await anyio.sleep(1)

    run, _ = await one(body, stop_at=3, policy=StopPolicy(grace=1))
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("pay", "completed")]
    assert run.output.content == "committed after all"


async def test_a_step_that_translates_its_cut_into_an_error_may_have_happened() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            try:
                await anyio.sleep(1_000)
            except asyncio.CancelledError:
                raise ConnectionError("torn") from None

    run, _ = await one(body, stop_at=3, policy=StopPolicy(grace=1))
    assert run.status is RunStatus.cancelled
    assert run.output is not None
    assert [(step.step, step.status) for step in run.output.steps] == [("pay", "unsettled")]


async def test_text_written_after_the_stop_inside_the_step_is_kept() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.write("before ")
        async with run.step("pay"):
            await anyio.sleep(10)
            run.write("during ")
        run.write("right after ")
        await anyio.sleep(1)
        run.write("never")

    _, events = await one(body, stop_at=3)
    assert events[-1].content == delivered(events) == "before during right after "


async def test_a_string_returned_by_a_silent_body_is_its_content_and_value() -> None:
    async def silent(run: RunContext, message: object) -> str:
        return "hello"

    async def written(run: RunContext, message: object) -> str:
        run.write("written")
        return "returned"

    async def data(run: RunContext, message: object) -> dict[str, int]:
        return {"n": 1}

    outputs = [(await one(body))[0].output for body in (silent, written, data)]
    told = [(output.content, output.value) for output in outputs if output]
    assert told == [("hello", "hello"), ("written", "returned"), ("", {"n": 1})]


async def test_a_cancelled_run_has_no_value_but_all_its_text() -> None:
    async def body(run: RunContext, message: object) -> str:
        run.write("half ")
        await anyio.sleep(1_000)
        return "whole"

    run, _ = await one(body, stop_at=3)
    assert run.output is not None
    assert (run.output.content, run.output.value) == ("half ", None)


@pytest.mark.parametrize("end", ["completes", "fails", "is stopped"])
async def test_partial_text_is_kept_however_the_run_ends(end: str) -> None:
    async def body(run: RunContext, message: object) -> None:
        run.write("half ")
        if end == "fails":
            raise KeyError("x")
        if end == "is stopped":
            await anyio.sleep(1_000)

    run, events = await one(body, stop_at=3 if end == "is stopped" else None)
    output: RunOutput | None = run.output
    assert output is not None
    assert output.content == events[-1].content == "half "
