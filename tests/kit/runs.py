"""What tests of runs share: moments of the loop, sources, bodies, event lists as names. Proves nothing itself."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio

from softstop import Agent, Event, Outcome, Run, RunContent, RunContext, RunOutput, RunStarted, Supervisor


def now() -> float:
    """Loop time; virtual in the tests of the law and of units."""
    return asyncio.get_running_loop().time()


async def deaf(seconds: float) -> None:
    """Stay, whatever is thrown in. A shield is not enough: a native cancel goes through it (T8)."""
    until = now() + seconds
    while (left := until - now()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


def names(events: Iterable[Event]) -> list[str]:
    """Class names, oldest first."""
    return [type(event).__name__ for event in events]


def kinds(events: list[Event]) -> list[str]:
    """The event names, content left out."""
    return [event.event.value for event in events if not isinstance(event, RunContent)]


def statuses(output: RunOutput | None) -> list[tuple[str, str]]:
    """Each step of an ended run with its status, in the order of their ends."""
    assert output is not None
    return [(step.step, step.status) for step in output.steps]


def assert_one_outcome_last(events: list[Event]) -> None:
    """There is exactly one outcome, and nothing after it."""
    assert [isinstance(event, Outcome) for event in events].count(True) == 1
    assert isinstance(events[-1], Outcome)


async def listen(run: Run) -> list[Event]:
    """Every event of a run, read to its end by somebody who is not its caller."""
    return [event async for event in run.events()]


class Later:
    """What a test does later: a timer of its own, which may be left when the test ends."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __call__(self) -> None:
        self._action()


def at(seconds: float, action: Callable[[], object]) -> None:
    """Do something `seconds` from now, from a callback of the loop."""
    asyncio.get_running_loop().call_later(seconds, Later(action))


class Words:
    """A source of text: knows how far it was read, how often it was closed and when."""

    def __init__(self, count: int = 1_000, delay: float = 1.0, *, stall_at: int | None = None) -> None:
        self.count, self.delay, self.stall_at = count, delay, stall_at
        self.made = self.closed = 0
        self.closed_at: float | None = None

    def __aiter__(self) -> "Words":
        return self

    async def __anext__(self) -> str:
        if self.made >= self.count:
            raise StopAsyncIteration
        if self.made == self.stall_at:
            await anyio.sleep_forever()
        await anyio.sleep(self.delay)
        self.made += 1
        return f"word{self.made} "

    async def aclose(self) -> None:
        self.closed += 1
        self.closed_at = now()


async def words(count: int, delay: float = 1.0) -> AsyncIterator[str]:
    """The same as an async generator."""
    for number in range(1, count + 1):
        await anyio.sleep(delay)
        yield f"word{number} "


async def sleeper(run: RunContext, message: object) -> None:
    """A body that waits in no step."""
    await anyio.sleep(1_000)


async def payer(run: RunContext, message: object) -> str:
    """A body with one atomic step of ten seconds and nothing after it."""
    async with run.step("pay"):
        await anyio.sleep(10)
    return "paid"


async def chatty(run: RunContext, message: object) -> None:
    """A body that writes a number in each of twenty steps, a second each."""
    for number in range(20):
        async with run.step(f"step {number}"):
            run.write(f"{number} ")
            await anyio.sleep(1)


def cancel_natively(run: Run) -> None:
    """Cancel the task of a run that has begun and not ended, as asyncio does where its loop ends."""
    task = run._state.task
    assert task is not None
    task.cancel()


async def begun(run: Run) -> Run:
    """Wait until the body of a run runs."""
    async for event in run.events():
        if isinstance(event, RunStarted) and event.run_id == run.run_id:
            break
    return run


def orphan(body: Any, **options: Any) -> Run:
    """A run whose loop was closed under it, as a crash or careless code leaves it."""

    async def main() -> Run:
        run = await begun(Supervisor().start(Agent(body), "go", **options))
        await asyncio.sleep(0)
        return run

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


class OtherThread:
    """A thread that does one thing when asked, while the asking loop stands still."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action, self._go, self.answers = action, threading.Event(), list[Any]()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        self._go.wait()
        self.answers.append(self._action())

    def ask(self) -> Any:
        self._go.set()
        while not self.answers:
            pass
        return self.answers[0]

    def __enter__(self) -> "OtherThread":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._go.set()
        self._thread.join()


class Notes:
    """An observer that remembers what it was told, and may look around while it is told."""

    def __init__(self, look: Callable[[Event], Any] = lambda event: None) -> None:
        self.events: list[Event] = []
        self.seen: list[Any] = []
        self._look = look

    def notice(self, event: Event) -> None:
        self.events.append(event)
        self.seen.append(self._look(event))


async def one(body: Any, *, stop_at: float | None = None, **options: Any) -> tuple[Run, list[Event]]:
    """Run a body in a supervisor of its own, stop it at a time, and return the ended run with its events."""
    mode = options.pop("mode", "step")
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(body), "go", **options)
        if stop_at is not None:
            at(stop_at, lambda: run.cancel("enough", by="user-7", mode=mode))
        return run, await listen(run)
