"""The output of a run as its store tells it, after a restart and in other processes, is the one its owner told."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pydantic
import pytest

from kit.stores import STORES, Make, batch, end, one, record
from softstop import Agent, RunContext, RunErrored, RunStatus, Supervisor
from softstop.durable import Runs
from softstop.stores import Recording, RunQuery


@pytest.fixture(params=STORES, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    factory: Callable[[Path], Make] = request.param
    return factory(tmp_path)


class Answer(pydantic.BaseModel):
    text: str
    parts: list[int]


@dataclass
class Place:
    name: str


VALUES: dict[str, tuple[object, object]] = {
    "text": ("said", "said"),
    "nothing": (None, None),
    "false": (False, False),
    "empty": ("", ""),
    "model": (Answer(text="é", parts=[1, 2]), {"text": "é", "parts": [1, 2]}),
    "dataclass": ([Place("here")], [{"name": "here"}]),
    "foreign": (object(), "<object>"),
    "surrogate": ("\ud800", "<str>"),
}


@pytest.mark.parametrize("kind", VALUES)
async def test_what_a_body_returned_is_told_after_a_restart_as_json_has_it(make: Make, kind: str) -> None:
    value, told = VALUES[kind]

    async def body(run: RunContext, message: object) -> object:
        return value

    async with Recording(make()) as recording, Supervisor(recorder=recording) as supervisor:
        output = await supervisor.start(Agent(body), run_id="r")
    async with Recording(make()) as recording, Supervisor(recorder=recording) as supervisor:
        kept = (await Runs(supervisor, recording).ended("r")).output
        assert kept is not None
        assert kept.value == told
        assert kept.to_dict() == output.to_dict()
        assert await recording.output("r") == kept
        (listed,) = await Runs(supervisor, recording).find(RunQuery())
        assert listed.output == kept


async def helper(run: RunContext, message: Any) -> str:
    async with run.step("help"):
        run.write(f"helped {message} ")
        if message == "badly":
            raise KeyError("no such shelf")
        if message == "slowly":
            run.cancel("enough")
    await run.boundary()
    return f"value of {message}"


async def leader(run: RunContext, message: object) -> list[str]:
    for how in ("well", "badly", "slowly"):
        await run.member(Agent(helper, name=how), how, run_id=how)
    return ["led"]


async def chief(run: RunContext, message: object) -> str:
    await run.member(Agent(leader), "go", run_id="leader")
    raise ValueError("a cause of its own")


async def test_members_and_errors_are_told_by_another_process_as_by_the_owner(make: Make) -> None:
    there, here = Recording(make()), Recording(make())
    async with there, Supervisor(recorder=there) as supervisor, here, Supervisor(recorder=here) as other:
        await Runs(supervisor, there).start(Agent(chief), run_id="chief")
        kept = (await Runs(other, here).ended("chief")).output
        output = await supervisor.get_run("chief")
        member = (await Runs(other, here).get("leader")).output
    assert kept is not None
    assert kept.to_dict() == output.to_dict()
    assert member == kept.members[0]
    well, badly, slowly = kept.members[0].members
    assert (kept.members[0].value, well.value, slowly.run_id) == (["led"], "value of well", "slowly")
    for failed, text in ((kept, "ValueError: a cause of its own"), (badly, "no such shelf")):
        assert isinstance(failed.error, RunErrored)
        with pytest.raises(RunErrored, match=text) as told:
            failed.raise_for_status()
        assert text in str(told.value.__cause__)


async def test_the_stop_of_a_run_that_completed_anyway_and_the_grace_of_one_that_did_not_are_told(make: Make) -> None:
    async def last(run: RunContext, message: object) -> str:
        async with run.step("pay"):
            await run.stop_requested()
        if message == "goes on":
            await run.boundary()
        return "paid"

    async with Recording(make()) as recording, Supervisor(recorder=recording) as supervisor:
        runs = [supervisor.start(Agent(last), message, run_id=message[0]) for message in ("ends", "goes on")]
        await anyio.sleep(0.01)
        outputs = []
        for run in runs:
            run.cancel("enough", by="ann", grace=7.0)
            outputs.append(await run)
    assert [output.status for output in outputs] == [RunStatus.completed, RunStatus.cancelled]
    async with Recording(make()) as recording, Supervisor(recorder=recording):
        kept = [await recording.output(run_id) for run_id in "eg"]
    assert [told and told.stop for told in kept] == [output.stop for output in outputs]
    assert outputs[0].stop is not None
    assert (outputs[0].stop.grace, outputs[0].stop.by) == (7.0, "ann")


async def test_a_supervisor_that_remembers_little_loses_none_of_what_its_store_is_to_keep(make: Make) -> None:
    async def body(run: RunContext, message: object) -> object:
        return message

    async with Recording(make(), linger=0.1) as recording, Supervisor(recorder=recording, keep_ended=0) as supervisor:
        for run in [supervisor.start(Agent(body), f"value {number}", run_id=f"r{number}") for number in range(50)]:
            await run.ended()
    async with Recording(make()) as recording, Supervisor(recorder=recording):
        kept = [await recording.output(f"r{number}") for number in range(50)]
    assert [output and output.value for output in kept] == [f"value {number}" for number in range(50)]


async def test_a_result_is_stored_with_its_outcome_and_read_by_all(make: Make) -> None:
    a, b = make(), make()
    async with a.open("a", 10.0), b.open("b", 10.0):
        await a.create(record("r"))
        await a.commit([batch("r", 0, 1, status={"r": RunStatus.running})])
        assert (await one(b, "r")).result is None
        await a.commit([replace(end("r", 1), results={"r": b"[1]"})])
        assert [(await one(b, "r")).result, (await b.find(RunQuery()))[0].result] == [b"[1]"] * 2
