"""The law's sections "Status" and "Small decisions", as far as single runs show them."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.runs import at, begun, listen, now, one, payer, sleeper, words
from softstop import (
    Agent,
    Budget,
    Limits,
    MisuseError,
    RunContext,
    RunIdTaken,
    RunNotFound,
    RunStatus,
    StopPolicy,
    Supervisor,
    Usage,
)


async def test_a_run_goes_from_pending_over_running_and_stopping_to_its_end() -> None:
    seen: list[str] = []

    async def body(run: RunContext, message: object) -> None:
        seen.append(handle[0].status.value)
        async with run.step("pay"):
            handle[0].cancel()
            seen.append(handle[0].status.value)
            await anyio.sleep(1)
        await anyio.sleep(1)

    handle = []
    async with Supervisor() as supervisor:
        handle.append(supervisor.start(Agent(body)))
        seen.append(handle[0].status.value)
        await handle[0].ended()
        seen.append(handle[0].status.value)
    assert seen == ["pending", "running", "stopping", "cancelled"]


async def test_names_on_the_wire_are_lower_case() -> None:
    run, events = await one(sleeper, stop_at=1)
    assert run.status == "cancelled"
    assert events[-1].to_dict()["status"] == "cancelled"
    assert f"{run.status}" == "cancelled"


# -- the nearest policy wins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "agents", "runs", "ends"),
    [(2.0, None, None, 2), (2.0, 3.0, None, 3), (2.0, 3.0, 4.0, 4), (2.0, None, 4.0, 4)],
)
async def test_the_policy_of_the_run_wins_over_the_agent_s_and_that_over_the_supervisor_s(
    ours: float, agents: float | None, runs: float | None, ends: float
) -> None:
    async def slow(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            await anyio.sleep(1_000)

    def policy(grace: float | None) -> StopPolicy | None:
        return None if grace is None else StopPolicy(grace=grace)

    async with Supervisor(policy=policy(ours)) as supervisor:
        run = await begun(supervisor.start(Agent(slow, policy=policy(agents)), policy=policy(runs)))
        run.cancel()
        await run.ended()
        assert now() == ends


# -- content and value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrote", "returned", "content", "value"),
    [
        ("", None, "", None), ("", "said", "said", "said"), ("wrote", "said", "wrote", "said"), ("", 7, "", 7),
        ("", "", "", ""), ("wrote", None, "wrote", None), ("", ["a"], "", ["a"]),
    ],
)  # fmt: skip
async def test_content_is_what_was_written_and_value_what_was_returned(
    wrote: str, returned: Any, content: str, value: Any
) -> None:
    async def body(run: RunContext, message: object) -> Any:
        run.write(wrote)
        return returned

    run, _ = await one(body)
    assert run.output is not None
    assert (run.output.content, run.output.value) == (content, value)


async def test_arun_inside_a_body_starts_a_member_and_supervisor_start_a_root_run() -> None:
    async def body(run: RunContext, message: object) -> None:
        await Agent(payer).arun("go", run_id="member")
        await supervisor.start(Agent(payer), "go", run_id="root").ended()

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), run_id="lead")
        output = await run.ended()
        assert supervisor.get_run("member").parent_run_id == "lead"
        assert supervisor.get_run("root").parent_run_id is None
    assert [member.run_id for member in output.members] == ["member"]


async def test_arun_uses_the_supervisor_around_it_else_one_of_its_loop() -> None:
    async with Supervisor() as outer:
        async with Supervisor() as inner:
            run = Agent(payer).arun("go")
            assert inner.get_run(run.run_id) == run
            await run
        other = Agent(payer).arun("go")
        assert outer.get_run(other.run_id) == other
        await other
    one_run, two_run = Agent(payer).arun("go"), Agent(payer).arun("go")
    assert (await one_run).value == (await two_run).value == "paid"


# -- what is remembered ----------------------------------------------------------------------------------------------


async def test_ended_runs_are_remembered_up_to_keep_ended_and_the_oldest_go_first() -> None:
    async def quick(run: RunContext, message: object) -> str:
        return "done"

    async with Supervisor(keep_ended=3) as supervisor:
        for number in range(5):
            await supervisor.start(Agent(quick), run_id=f"r{number}").ended()
        assert [run.run_id for run in supervisor.list_runs()] == ["r2", "r3", "r4"]
        with pytest.raises(RunNotFound):
            supervisor.get_run("r1")
        assert supervisor.cancel_run("r1").outcome.value == "unknown"
        assert supervisor.cancel_run("r4").outcome.value == "too_late"


async def test_a_member_is_remembered_as_long_as_its_root_is() -> None:
    async def quick(run: RunContext, message: object) -> str:
        return "done"

    async def leads(run: RunContext, message: object) -> None:
        for number in range(5):
            await run.member(Agent(quick), None, run_id=f"{run.run_id}-m{number}")

    async with Supervisor(keep_ended=1) as supervisor:
        await supervisor.start(Agent(leads), run_id="r1").ended()
        assert [run.run_id for run in supervisor.list_runs()] == ["r1", *(f"r1-m{number}" for number in range(5))]
        assert supervisor.cancel_run("r1-m0").outcome.value == "too_late"
        await supervisor.start(Agent(leads), run_id="r2").ended()
        assert {run.run_id.split("-")[0] for run in supervisor.list_runs()} == {"r2"}
        assert supervisor.cancel_run("r1-m0").outcome.value == "unknown"


async def test_ended_runs_are_forgotten_after_keep_ended_for_seconds() -> None:
    async with Supervisor(keep_ended_for=60) as supervisor:
        run = supervisor.start(Agent(payer), run_id="r1")
        await run.ended()
        await anyio.sleep(60)
        assert supervisor.get_run("r1") == run
        await anyio.sleep(1)
        assert supervisor.list_runs() == []
        with pytest.raises(RunNotFound):
            supervisor.get_run("r1")
        assert supervisor.cancel_run("r1").outcome.value == "unknown"


async def test_nothing_is_remembered_with_keep_ended_zero() -> None:
    async with Supervisor(keep_ended=0) as supervisor:
        output = await supervisor.start(Agent(payer), run_id="r1").ended()
        assert output.status is RunStatus.completed
        assert supervisor.list_runs() == []
        assert supervisor.cancel_run("r1").outcome.value == "unknown"


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"keep_ended": -1}, {"keep_ended_for": -0.5}], ids=repr)
def test_a_supervisor_with_numbers_that_cannot_be_meant_is_misuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match=next(iter(wrong))):
        Supervisor(**wrong)


async def test_a_live_run_is_never_forgotten_however_many_end_meanwhile() -> None:
    async def quick(run: RunContext, message: object) -> None:
        return None

    async with Supervisor(keep_ended=2) as supervisor:
        live = supervisor.start(Agent(sleeper), run_id="live")
        for _ in range(10):
            await supervisor.start(Agent(quick)).ended()
        assert supervisor.get_run("live") == live
        live.cancel()


async def test_keep_ended_is_a_thousand_by_default() -> None:
    async def quick(run: RunContext, message: object) -> None:
        return None

    async with Supervisor() as supervisor:
        for number in range(1_005):
            await supervisor.start(Agent(quick), run_id=f"r{number}").ended()
        assert len(supervisor.list_runs()) == 1_000


async def test_nothing_of_an_ended_run_is_kept_alive_but_its_record() -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(sleeper), limits=Limits(timeout=500, idle_timeout=400))
        at(1, run.cancel)
        await run.ended()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert loop.timers() == []  # type: ignore[attr-defined]
        assert asyncio.all_tasks() == {asyncio.current_task()}


class Message:
    """Something that is freed with the run it was given to."""


async def brief(run: RunContext, message: object) -> None:
    async with run.step("pay", reserve=Usage(output_tokens=5)):
        run.charge(Usage(output_tokens=5))
    run.limits.update(steps=9)
    async for word in run.stream("write", words(2)):
        run.write(word)
    run.on_stop(print)


async def stopped(run: RunContext, message: object) -> None:
    run.cancel()
    await run.boundary()


@pytest.mark.parametrize(
    "limits", [Limits(), Limits(tokens=9, steps=9), Limits(timeout=9, idle_timeout=9)], ids=["none", "numbers", "times"]
)
@pytest.mark.parametrize("body", [brief, stopped])
async def test_a_run_that_is_forgotten_is_freed_at_once_with_no_look_for_cycles(
    body: Callable[[RunContext, Any], Awaitable[None]], limits: Limits
) -> None:
    async with Supervisor(keep_ended=0) as supervisor:
        gc.disable()
        try:
            messages = [weakref.ref(message := Message())]
            await supervisor.start(Agent(body), message, limits=limits).ended()
            del message
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert messages[0]() is None
        finally:
            gc.enable()


class Declined(Exception):
    """A failure that a body handles."""


async def test_a_run_that_is_remembered_keeps_no_callback_and_no_failure_that_it_has_handled() -> None:
    kept: list[weakref.ref[object]] = []

    def seen(thing: Any) -> Any:
        kept.append(weakref.ref(thing))
        return thing

    async def body(run: RunContext, message: object) -> None:
        run.on_stop(seen(lambda stop: None))
        with contextlib.suppress(Declined):
            async with run.step("pay"):
                raise seen(Declined())

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        output = await run.ended()
        gc.collect()
        assert [ref() for ref in kept] == [None, None]
    assert [step.status for step in output.steps] == ["failed"]


# -- ids -------------------------------------------------------------------------------------------------------------


async def test_a_fresh_id_is_known_at_once_and_never_twice() -> None:
    async with Supervisor() as supervisor:
        runs = [supervisor.start(Agent(payer)) for _ in range(200)]
        assert len({run.run_id for run in runs}) == 200
        assert all(run.status is RunStatus.pending for run in runs)


@pytest.mark.parametrize("good", ["r", "Run-1", "a.b_c:d-e", "0", "x" * 64])
async def test_an_id_of_ascii_letters_digits_and_four_signs_is_taken(good: str) -> None:
    async with Supervisor() as supervisor:
        assert (await supervisor.start(Agent(payer), run_id=good).ended()).run_id == good


@pytest.mark.parametrize(
    "bad",
    ["", "abc\n", "\nabc", "x" * 65, "Рун", "a b", "a/b", "../x", "-a", ".a", "a\0", "\u0661", "é", 7, b"r", True],
)
async def test_any_other_id_is_misuse_and_starts_nothing(bad: Any) -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(MisuseError, match="run_id"):
            supervisor.start(Agent(payer), run_id=bad)
        assert supervisor.list_runs() == []


@given(st.text(max_size=70))
def test_an_id_is_taken_if_and_only_if_it_is_plain(text: str) -> None:
    from softstop.runs.spec import RunSpec  # noqa: PLC0415 - the check alone, without a loop

    plain = (
        0 < len(text) <= 64 and all(c.isascii() and (c.isalnum() or c in "._:-") for c in text) and text[0].isalnum()
    )
    try:
        taken = RunSpec.check(Agent(payer), None, {"run_id": text}).run_id == text
    except MisuseError:
        taken = False
    assert taken is plain


async def test_ids_of_live_runs_are_unique_in_the_process_over_loops_too() -> None:
    async def elsewhere() -> str:
        try:
            Supervisor().start(Agent(payer), run_id="r1")
        except RunIdTaken:
            return "taken"
        return "free"

    async with Supervisor() as supervisor:
        await begun(supervisor.start(Agent(payer), run_id="r1"))
        assert await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere())) == "taken"


# -- misuse starts nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 3}, {"limits": 3}, {"limits": {"timeout": 3}}, {"budgets": [3]}, {"budgets": Budget()},
        {"policy": "stop"},
        {"timeout": 30}, {"run_ids": "x"},
    ],
    ids=repr,
)  # fmt: skip
async def test_a_wrong_option_is_misuse_in_the_caller_s_frame_and_starts_nothing(wrong: dict[str, Any]) -> None:
    async with Supervisor() as supervisor:
        for start in (supervisor.start, Agent.arun):
            with pytest.raises(MisuseError):
                start(Agent(payer), "go", **wrong) if start is supervisor.start else Agent(payer).arun("go", **wrong)
        assert supervisor.list_runs() == []


@pytest.mark.parametrize("wrong", [None, 3, "agent", payer, object(), lambda run, message: None])
async def test_what_cannot_be_run_is_misuse(wrong: Any) -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(MisuseError):
            supervisor.start(wrong, "go")


@pytest.mark.parametrize("wrong", [None, 3, lambda run, message: None, len])
def test_a_body_that_is_no_async_function_of_two_arguments_is_misuse(wrong: Any) -> None:
    with pytest.raises(MisuseError):
        Agent(wrong)


async def test_runs_can_be_listed_by_status_user_and_session() -> None:
    async with Supervisor() as supervisor:
        mine = supervisor.start(Agent(payer), user_id="u1", session_id="s1", metadata={"k": 1})
        other = supervisor.start(Agent(sleeper), user_id="u2", session_id="s1")
        elsewhere = supervisor.start(Agent(sleeper), user_id="u1", session_id="s2")
        await mine.ended()
        assert supervisor.list_runs(status="completed") == [mine]
        assert supervisor.list_runs(user_id="u2") == [other]
        assert supervisor.list_runs(session_id="s1") == [mine, other]
        assert supervisor.list_runs(session_id="s1", status=RunStatus.running) == [other]
        assert supervisor.list_runs(user_id="u1", session_id="s2") == [elsewhere]
        with pytest.raises(MisuseError, match="pending, running, stopping, cancelled, completed, failed"):
            supervisor.list_runs(status="done")
        other.cancel()
        elsewhere.cancel()
    assert len(await listen(mine)) == 5
