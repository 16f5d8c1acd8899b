"""`continue_from`: a run goes on from an earlier one, whatever moment that was stopped at."""

from __future__ import annotations

import anyio
import pytest

from kit.scripts import Script, answers, call
from softstop import Agent, MisuseError, RunContent, RunContext, RunNotFound, RunStatus, StopPolicy, Supervisor


async def test_the_conversation_goes_on_by_output_and_by_run_id() -> None:
    script = Script(["Once ", 1.0, "upon"], ["a time."])
    agent = Agent(model=script.model, instructions="Tell.")
    async with Supervisor() as supervisor:
        run = agent.arun("go", run_id="first")
        async for event in run:
            if isinstance(event, RunContent):
                run.cancel()
        await run
        by_id = await supervisor.start(agent, "Go on.", continue_from="first")
        by_output = await agent.arun("Go on.", continue_from=await run)

    assert [output.content for output in (by_id, by_output)] == ["a time.", "a time."]
    assert script.asked[1] == list(by_id.messages[:3])
    assert [message.parts[0].content for message in by_output.messages] == ["go", "Once ", "Go on.", "a time."]


async def test_an_unknown_run_and_a_live_one_cannot_be_continued() -> None:
    async def body(run: RunContext, message: object) -> None:
        await anyio.sleep(1)

    async with Supervisor() as supervisor:
        live = supervisor.start(Agent(body), run_id="live")
        with pytest.raises(RunNotFound):
            supervisor.start(Agent(body), continue_from="nobody")
        with pytest.raises(MisuseError, match="has not ended"):
            supervisor.start(Agent(body), continue_from="live")
        with pytest.raises(MisuseError, match="continue_from must be RunOutput"):
            Agent(body).arun(continue_from=7)  # type: ignore[arg-type]
        assert supervisor.list_runs() == [live]
        await live
        assert (await supervisor.start(Agent(body), continue_from="live")).status is RunStatus.completed


async def test_a_stop_between_parallel_calls_keeps_what_each_came_to() -> None:
    async def quick() -> str:
        return "done"

    async def slow() -> str:
        await anyio.sleep(60)
        raise NotImplementedError

    script = Script([call("quick"), call("slow")], ["I see."])
    agent = Agent(model=script.model, tools=[quick, slow])
    run = agent.arun("go", policy=StopPolicy(grace=1))
    await anyio.sleep(1)
    run.cancel()
    output = await agent.arun("What now?", continue_from=await run)

    assert output.content == "I see."
    assert [(outcome, name) for outcome, name, _ in answers(script.asked[1])] == [
        ("success", "quick"), ("interrupted", "slow"),
    ]  # fmt: skip


async def test_a_run_that_owes_the_model_answers_goes_on_without_a_message() -> None:
    async def save() -> str:
        run.cancel()
        return "saved"

    script = Script([call("save")], ["All saved."])
    agent = Agent(model=script.model, tools=[save], instructions="Save.")
    run = agent.arun("go")
    stopped = await run
    output = await Agent(model=script.model, instructions="Go on.").arun(continue_from=stopped)

    assert (stopped.status, output.content) == (RunStatus.cancelled, "All saved.")
    assert len(output.messages) == 4
    assert script.asked[1][-1].instructions == "Go on."  # type: ignore[union-attr]


async def test_a_plain_body_reads_and_keeps_its_history() -> None:
    seen: list[tuple[object, ...]] = []

    async def body(run: RunContext, message: str) -> None:
        seen.append(run.history)
        run.messages = (*run.history, message)

    agent = Agent(body)
    first = await agent.arun("one")
    second = await agent.arun("two", continue_from=first)
    assert seen == [(), ("one",)]
    assert second.messages == ("one", "two")


async def test_a_member_continues_a_run() -> None:
    agent = Agent(model=Script(["one"], ["two"]).model)

    async def body(run: RunContext, message: object) -> str:
        first = await run.member(agent, "go")
        second = await run.member(agent, "and?", continue_from=first)
        third = await run.member(agent, "and?", continue_from=second.run_id)
        return str(len(third.messages))

    assert (await Agent(body).arun()).content == "6"
