"""Tasks in deferred scopes, and a model of a tree of them that says at each moment who may be interrupted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractContextManager

from softstop.aio.deferred_scope import DELIVERED, OPEN, DeferredScope

PEACE = 0.05


class Worker:
    """A task in a scope of its own, which waits until it is interrupted, then cleans up."""

    def __init__(self, parent: Worker | None = None, *, clean_up: float = 0.01, swallow: int = 0) -> None:
        self.parent = parent
        self.scope: DeferredScope = DeferredScope(None if parent is None else parent.scope, peace=PEACE)
        self.clean_up, self.swallow = clean_up, swallow
        self.interrupted_at: list[float] = []
        self.whole = False
        self.cancels_left: int | None = None  # set when it has ended
        self.raised: BaseException | None = None
        self.let_go = asyncio.Event()
        self.task = asyncio.ensure_future(self._live())  # noqa: TID251 - the primitive is tested without a supervisor

    async def _live(self) -> None:
        self.scope.enter(asyncio.current_task())
        raised: BaseException | None = None
        try:
            while not self.let_go.is_set():
                await self._wait()
        except BaseException as exc:  # noqa: BLE001 - handed to the scope, as a run's edge does
            raised = exc
        self.raised = self.scope.exit(raised)
        self.cancels_left = self.task.cancelling()

    async def _wait(self) -> None:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.interrupted_at.append(asyncio.get_running_loop().time())
            if self.swallow < len(self.interrupted_at):
                await asyncio.sleep(self.clean_up)
                self.whole = True
                raise


async def turns(count: int = 12) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class Tree:
    """A random tree of workers to which random things happen, and what is known of each of them besides its scope."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.workers: list[Worker] = []
        for _ in range(self.rng.randint(1, 6)):
            parent = self.rng.choice([None, *self.workers])
            self.workers.append(Worker(parent, swallow=self.rng.choice((0, 0, 0, 2))))
        self.holds = dict.fromkeys(self.workers, 0)
        self.regions: dict[Worker, list[AbstractContextManager[None]]] = {worker: [] for worker in self.workers}
        self.forced: set[Worker] = set()
        self.closed: set[Worker] = set()

    # -- what is known -----------------------------------------------------------------------------------------------

    def below(self, worker: Worker) -> list[Worker]:
        """The workers whose scopes are right below."""
        return [other for other in self.workers if other.parent is worker]

    def is_held(self, worker: Worker) -> bool:
        """Whether something open in it, or below it, holds the scopes around."""
        return worker not in self.closed and (self.holds[worker] > 0 or any(map(self.is_held, self.below(worker))))

    def may_be_interrupted(self, worker: Worker) -> bool:
        """Whether an interruption now, or one that came before, is lawful."""
        free = not (self.holds[worker] or self.regions[worker] or any(map(self.is_held, self.below(worker))))
        return free or worker.scope.phase >= DELIVERED or worker in self.forced

    # -- what happens ------------------------------------------------------------------------------------------------

    async def happen(self) -> None:
        """Do one random thing to one worker, or let time pass."""
        worker = self.rng.choice(self.workers)
        common = [self.hold, self.hold, self.hold, self.release, self.release, self.release]
        often = [self.cancel, self.cancel, self.open_region, self.close_region]
        rare = [self.force, self.end, self.close]
        chosen = self.rng.choice([*common, *often, *rare, None, None])
        if chosen is None:
            await self.pass_time()
        elif chosen not in rare or self.rng.random() < 0.25:
            chosen(worker)

    def hold(self, worker: Worker) -> None:
        self.holds[worker] += 1
        worker.scope.hold()

    def release(self, worker: Worker) -> None:
        if self.holds[worker]:
            self.holds[worker] -= 1
            worker.scope.release()

    def open_region(self, worker: Worker) -> None:
        self.regions[worker].append(region := worker.scope.region())
        region.__enter__()

    def close_region(self, worker: Worker) -> None:
        if self.regions[worker]:
            self.regions[worker].pop().__exit__(None, None, None)

    def cancel(self, worker: Worker) -> None:
        worker.scope.cancel()

    def force(self, worker: Worker) -> None:
        self.forced.add(worker)
        worker.scope.deliver()

    def end(self, worker: Worker) -> None:
        worker.let_go.set()

    def close(self, worker: Worker) -> None:
        self.closed.add(worker)
        worker.scope.close()

    async def pass_time(self) -> None:
        """Let the loop turn; who was held meanwhile may not be interrupted."""
        held = [worker for worker in self.workers if not self.may_be_interrupted(worker)]
        await turns(self.rng.choice((1, 2, 12)))
        for worker in held:
            assert not worker.interrupted_at, "interrupted although something held it"

    def undo(self) -> None:
        """End everything that holds."""
        for worker in self.workers:
            self.exhaust(self.close_region, worker, lambda worker: len(self.regions[worker]))
            self.exhaust(self.release, worker, lambda worker: self.holds[worker])

    @staticmethod
    def exhaust(undo: Callable[[Worker], None], worker: Worker, left: Callable[[Worker], int]) -> None:
        while left(worker):
            undo(worker)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check_counts(self) -> None:
        """A scope is held by its own holds and by each scope below that is held, and once more while it looks."""
        for worker in self.workers:
            held_below = [one for one in self.below(worker) if one not in self.closed and one.scope.held]
            known = self.holds[worker] + len(held_below)
            assert known <= worker.scope.held <= known + 1

    def check_nothing_is_held(self) -> None:
        """Who is due has been interrupted, now that nothing holds it."""
        for worker in self.workers:
            assert worker.scope.held == 0
            if worker.scope.phase > OPEN and worker not in self.closed:
                assert worker.interrupted_at or worker.task.done(), "due, held by nothing, and not interrupted"

    async def end_all(self) -> None:
        """Let every worker end; its task counts no cancel of its scope any more."""
        for worker in self.workers:
            worker.let_go.set()
            if worker in self.closed:
                worker.task.cancel()
        await asyncio.wait([worker.task for worker in self.workers])
        for worker in self.workers:
            assert worker in self.closed or worker.cancels_left == 0


async def random_story(seed: int) -> None:
    """Sixty random things happen to a random tree, and then everything ends."""
    tree = Tree(seed)
    await turns()
    for _ in range(60):
        await tree.happen()
        tree.check_counts()
    tree.undo()
    await turns()
    tree.check_nothing_is_held()
    await tree.end_all()
