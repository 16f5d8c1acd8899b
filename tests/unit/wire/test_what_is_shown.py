"""What a run's user is shown of its errors, and the steps of one run: plain functions of what was told."""

from typing import Any

import anyio
from pydantic_core import from_json

from kit.runs import now
from softstop import Agent, Event, RunContext, Supervisor, Usage
from softstop.durable import Runs
from softstop.ports import AdapterContext
from softstop.stores import Page, RunQuery
from softstop.wire.agentos import Wire, paused, session, waiting
from softstop.wire.contract import run_steps
from softstop.wire.shown import shown_page, types_of


async def told(body: Any) -> list[Event]:
    async with Supervisor() as supervisor:
        return [event async for event in supervisor.start(Agent(body), run_id="r").events()]


async def test_a_rejected_report_is_shown_by_its_type_and_not_by_its_words() -> None:
    async def body(run: RunContext, message: object) -> None:
        run.charge({"output_tokens": -1, "input_tokens": 1})

    events = await told(body)
    shown = shown_page(Page([(event.seq, event.to_json()) for event in events], ended=True))
    problems = [from_json(line)["problem"] for _, line in shown.events if b'"problem"' in line]
    assert len(problems) == 1
    assert " " not in problems[0]


async def test_the_steps_of_a_run_are_its_own_with_all_that_was_charged_in_them_and_not_those_of_its_members() -> None:
    async def inner(run: RunContext, message: object) -> None:
        async with run.step("below"):
            raise ValueError

    async def body(run: RunContext, message: object) -> None:
        async with run.step("own"):
            run.charge(Usage(output_tokens=5))
            run.write("which tells those five")
            run.charge(Usage(output_tokens=2))
        await run.member(Agent(inner), None)

    events = await told(body)
    assert [(step["id"], step["status"], step["tokensUsed"]) for step in run_steps("r", events)] == [
        ("r.1", "COMPLETED", 7)
    ]


async def test_agno_s_clients_are_told_the_model_of_each_request() -> None:
    async def body(run: RunContext, message: object) -> None:
        async with AdapterContext(run).atomic_model_request("a-model"):
            pass

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body))
        events = [event async for event in run.events()]
    frames = Wire(run.facts)(Page([(event.seq, event.to_json()) for event in events], ended=True)).split(b"\n\n")
    told = [from_json(frame.partition(b"data: ")[2]) for frame in frames if b"ModelRequest" in frame]
    assert [(each["event"], each["model"]) for each in told] == [
        ("ModelRequestStarted", "a-model"), ("ModelRequestCompleted", "a-model"),
    ]  # fmt: skip


async def test_a_stop_of_one_member_takes_back_its_own_question_and_not_that_of_another() -> None:
    async def asks(run: RunContext, message: object) -> None:
        await AdapterContext(run).approval("call", "pay", "{}")

    async def lead(run: RunContext, message: object) -> None:
        members = [run.start_member(Agent(asks), None, run_id=name) for name in ("one", "two")]
        await anyio.sleep(1)
        members[0].cancel()
        await anyio.sleep(1)
        told.append(list(waiting(await run_events())))

    async def run_events() -> list[Event]:
        return list(await supervisor.events("r").read())

    told: list[list[tuple[str, str]]] = []
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="r")
        await anyio.sleep(3)
        run.cancel(mode="now")
    assert told == [[("two", "call")]]


async def test_a_question_of_the_run_itself_is_none_of_a_member() -> None:
    async def asks(run: RunContext, message: object) -> None:
        await AdapterContext(run).approval("call", "pay", "{}")

    async def lead(run: RunContext, message: object) -> None:
        run.start_member(Agent(asks), None, run_id="member")
        await asks(run, message)

    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(lead), run_id="r")
        await anyio.sleep(1)
        required = paused(run.facts, waiting(await supervisor.events("r").read()))["requirements"]
        run.cancel(mode="now")
    assert {each["id"]: each.get("member_run_id") for each in required} == {"r.call": None, "member.call": "member"}


def test_a_line_that_begins_with_no_type_is_shown_by_none_of_its_words() -> None:
    assert types_of(["ValueError: a secret", "a.b.Error", "a secret cause"]) == ("ValueError", "a.b.Error", "error")


async def test_a_session_is_as_old_as_its_oldest_run_and_as_new_as_its_newest() -> None:
    async def quick(run: RunContext, message: object) -> None:
        pass

    async with Supervisor(clock=now) as supervisor:
        runs = Runs(supervisor)
        for seconds in (2, 3):
            await anyio.sleep(seconds)
            await runs.start(Agent(quick), None, session_id="s")
            await anyio.sleep(0.5)
        told = session(await runs.find(RunQuery(session_id="s")))
    assert (told["created_at"], told["updated_at"]) == (2, 5)
