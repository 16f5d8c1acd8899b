"""`Runs` of one process, and of two with one store. Proves nothing itself."""

from contextlib import AsyncExitStack
from typing import Any

import anyio

from softstop import Run, RunContext, Supervisor
from softstop.durable import Runs
from softstop.ports import AdapterContext
from softstop.stores import MemoryStore, Recording, Shelf, Store


async def teller(run: RunContext, message: object) -> None:
    for number in range(5):
        async with run.step(f"s{number}"):
            run.write(f"w{number} ")
            await anyio.sleep(1)


async def started(runs: Runs, supervisor: Supervisor, *given: Any, **options: Any) -> Run:
    """The handle of a run that was started."""
    return supervisor.get_run((await runs.start(*given, **options)).facts.run_id)


async def buyer(run: RunContext, message: object) -> str:
    """Asks a person about two calls, one after the other."""
    door = AdapterContext(run)
    told = [await door.approval(f"call/{number}", "pay", "{}") for number in range(2)]
    return " ".join(f"{each.approved} {each.reason} {each.by}" for each in told)


class Two:
    """Two processes with one store: Runs over the first, whose agents run there, and over the second."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack, self.shelf = stack, Shelf()

    async def open(self, store: Store | None = None) -> tuple[Runs, Supervisor]:
        recording = await self.stack.enter_async_context(Recording(store or MemoryStore(self.shelf)))
        supervisor = await self.stack.enter_async_context(Supervisor(recorder=recording))
        return Runs(supervisor, recording), supervisor
