"""A conversation that a store has kept goes on in another process."""

from kit.runs import at
from kit.scripts import Script, call
from kit.stores import followed
from softstop import Agent, RunStatus, Supervisor
from softstop.models import Messages
from softstop.stores import MemoryStore, Recording, Shelf


async def test_a_stopped_run_is_continued_by_its_id_where_only_the_store_knows_it() -> None:
    async def look_up(word: str) -> str:
        return f"{word} means a lot"

    shelf = Shelf()
    script = Script([call("look_up", word="peace")], ["It ", 10.0, "means"], ["a lot, as I said."])
    agent = Agent(model=script.model, instructions="Explain.", tools=[look_up])
    async with Recording(MemoryStore(shelf), messages=Messages()) as recording, Supervisor(recorder=recording) as here:
        run = here.start(agent, "What is peace?", run_id="first")
        at(5, run.cancel)
        output = await run
        assert output.status is RunStatus.cancelled
        await followed(recording, "first")
    async with Recording(MemoryStore(shelf), messages=Messages()) as recording, Supervisor(recorder=recording) as there:
        kept = await recording.output("first")
        assert kept is not None
        assert kept.messages == output.messages
        assert (await there.start(agent, "Go on.", continue_from=kept)).content == "a lot, as I said."
    assert script.asked[2][: len(output.messages)] == list(output.messages)
