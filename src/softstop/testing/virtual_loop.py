"""An event loop on which time is virtual: waiting costs nothing, and waiting for nothing is an error. Knows no run."""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from pathlib import PurePath
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

from softstop.aio.crossing import loop_here
from softstop.checks import seconds, typed, whole
from softstop.errors import MisuseError

from .errors import Deadlock
from .threads import waits_for_a_run

T = TypeVar("T")
EPOCH: Final = 1_750_000_000.0  # what `wall()` says at virtual time 0
SPIN: Final = 10_000  # loop turns at one instant after which each turn takes time, as turns really do
TURN: Final = 20e-6  # seconds such a turn takes
IO_PATIENCE: Final = 0.02  # real seconds that open sockets may take to answer while a timer waits
LAST_PATIENCE: Final = 10.0  # real seconds that threads and sockets may take while no timer waits
LAST_TURNS: Final = 10_000  # what a loop that was ended for being busy gets to wind up its tasks
SLICE: Final = 0.01  # real seconds between two looks at busy threads


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock stands still while code runs and jumps to the next timer when all code waits.

    An hour of `sleep` takes microseconds and ends at exactly the same `time()` each time. Callbacks run in the order
    asyncio documents. If every task waits, no timer is left, and neither a worker thread nor a socket can wake
    anybody, the loop raises `Deadlock` at once, with what each task waits in.

    Worker threads (`anyio.to_thread`, `run_in_executor`) run for real: while one is busy the clock stands, for at most
    `patience` real seconds; then it goes on, since the thread may itself wait for something that a timer will do.
    Where it waits in `agent.run` for a member of its run, the clock goes on at once.
    Threads of your own are invisible unless declared: `with loop.outside(): ...`.

    Args:
        patience: Real seconds for which a busy worker thread holds the clock.
        max_turns: Raise `Deadlock` after so many loop turns; None lets a busy loop spin.
        spin: Turns at one instant after which time passes all the same, or a deadline could never end a busy loop.
        turn: Seconds that each further turn takes.

    Raises:
        MisuseError: One of these is no such number.
    """

    _closed = True  # until it is made: a loop that is refused below is asked for it when it goes

    def __init__(
        self, *, patience: float = 1.0, max_turns: int | None = None, spin: int = SPIN, turn: float = TURN
    ) -> None:
        seconds(patience, "patience")
        seconds(turn, "turn")
        whole(spin, "spin", 1)
        if max_turns is not None:
            whole(max_turns, "max_turns", 1)
        self._now = 0.0
        self._turns = 0
        self._calls = 0
        self.turns_at_now = 0  # turns of the loop at this instant, before the one that runs
        self.spun = False  # whether it ever spun
        self._spin, self._turn = spin, turn
        self._max_turns = max_turns  # counted from the first
        self._outside: set[object] = set()
        self._given_up: set[object] = set()  # threads that were busy for longer than our patience
        self._patience = patience
        self._breakpoints: Callable[[int], None] | None = None
        self._virtual = _VirtualSelector(self)
        super().__init__(self._virtual)
        private = cast(Any, self)
        private._clock_resolution = 1e-9
        private._ready = _Ready(self)
        self._tasks_made = self._timers_made = 0
        self._tasks = WeakSet[asyncio.Task[Any]]()

    def __repr__(self) -> str:
        return f"<VirtualLoop time={self._now:.9g} turns={self._turns}>"

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def wall(self) -> float:
        """Virtual wall-clock seconds, for `Supervisor(clock=loop.wall)`: a fixed date plus `time()`."""
        return EPOCH + self._now

    @property
    def turns(self) -> int:
        """Turns of the loop so far."""
        return self._turns

    @property
    def calls(self) -> int:
        """Callbacks run so far; between any two of them something may happen."""
        return self._calls

    def on_call(self, hook: Callable[[int], None] | None) -> None:
        """Call `hook(n)` right before the n-th callback of this loop runs, from its own thread; None removes it."""
        self._breakpoints = hook

    def allow(self, turns: int | None) -> None:
        """Raise `Deadlock` after so many further turns; None lets a busy loop spin."""
        self._max_turns = None if turns is None else self._turns + turns

    def pending(self) -> bool:
        """Whether anything is to happen at this very instant, after the callback that runs."""
        return bool(cast(Any, self)._ready) or (self._next() or math.inf) <= self._now

    def timers(self) -> list[asyncio.TimerHandle]:
        """Timers that were neither run nor cancelled, soonest first."""
        scheduled = cast("list[asyncio.TimerHandle]", cast(Any, self)._scheduled)
        return sorted(handle for handle in scheduled if not handle.cancelled())

    @contextmanager
    def outside(self) -> Generator[None]:
        """Declare that something the loop cannot see, say a thread of yours, may wake it: not a deadlock."""
        token = object()
        self._outside.add(token)
        try:
            yield
        finally:
            self._outside.discard(token)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Start a task, as every loop does; tasks are numbered, so that sets of them have the same order each time."""
        if self.get_task_factory() is not None:
            return super().create_task(coro, **options)
        self._tasks_made += 1
        task = _NumberedTask(self._tasks_made, coro, loop=self, **options)
        self._tasks.add(task)
        return task

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer, as every loop does; those of one instant run in the order in which they were set."""
        self._timers_made += 1
        timer = _NumberedTimer(self._timers_made, when, callback, args, self, context)
        heapq.heappush(cast(Any, self)._scheduled, timer)
        cast(Any, timer)._scheduled = True
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run `func` in a thread, as every loop does; the clock stands meanwhile."""
        token = object()
        future = super().run_in_executor(executor, func, *args)
        self._outside.add(token)
        future.add_done_callback(lambda _: self._outside.discard(token))
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """End the threads of `run_in_executor`."""
        with self.outside():
            await super().shutdown_default_executor(*args, **options)

    def close(self) -> None:
        """Close it, and have asyncio forget its tasks that have ended.

        It would keep them until garbage is collected, those of hundreds of loops, and walk them all whenever it lists
        a loop's tasks, or those of one number whenever it registers one more.
        """
        super().close()
        for task in self._tasks:
            if task.done():
                asyncio._unregister_task(task)

    # -- for the selector ----------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """Count a turn; a loop that spins at one instant makes time pass, or nothing would ever end the spinning."""
        self._turns += 1
        self.turns_at_now += 1
        if self.turns_at_now > self._spin:
            self._now += self._turn
            self.spun = True
        if self._max_turns is not None and self._turns > self._max_turns:
            most, self._max_turns = self._max_turns, self._turns + LAST_TURNS
            raise Deadlock(f"still busy after {most:,} turns of the loop: {self._waiting()}")

    def busy(self) -> set[object]:
        """Threads that are at work for this loop, and what was declared with `outside()`."""
        found = set(self._outside)
        if threading.active_count() > 1:
            found.update(thread for thread in threading.enumerate() if self._has_work(thread))
        self._given_up &= found
        return found

    def _has_work(self, thread: Any) -> bool:
        """Whether it is a worker thread of anyio's for this loop with work to do; anyio has no public way to ask."""
        queue = getattr(thread, "queue", None)
        mine = getattr(thread, "loop", None) is self and bool(getattr(queue, "unfinished_tasks", None))
        return mine and not waits_for_a_run(thread, self)

    def patience(self, *, sockets: bool) -> float:
        """Real seconds to wait now for threads and sockets before time goes on, or before it is a deadlock."""
        busy = self.busy()
        if self._next() is None:
            return LAST_PATIENCE if busy or sockets else 0.0
        if busy - self._given_up:
            return self._patience
        return IO_PATIENCE if sockets else 0.0

    def jump(self, *, waited: bool) -> None:
        """Nothing is ready: go on to the next timer.

        Raises:
            Deadlock: There is none.
        """
        when = self._next()
        if when is None:
            late = f" for {LAST_PATIENCE:g} real seconds, and so do the threads and sockets" if waited else ""
            raise Deadlock(f"every task waits{late}, and no timer is left to wake one: {self._waiting()}")
        if waited:
            self._given_up |= self.busy()
        if when > self._now:
            self._now, self.turns_at_now = when, 0

    def _next(self) -> float | None:
        """When the next timer fires; None if there is none, or only those at infinity by which some wait for ever."""
        scheduled = cast("list[asyncio.TimerHandle]", cast(Any, self)._scheduled)
        return scheduled[0].when() if scheduled and scheduled[0].when() < math.inf else None

    def _waiting(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        return "; ".join(f"{task.get_name()} in {where(task)}" for task in tasks) or "no task at all"


class _NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set is the same each time: anyio cancels a scope's tasks in the order of a set."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self._number = number
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class _NumberedTimer(asyncio.TimerHandle):
    """A timer whose place among those of its instant is the same each time: a heap of timers keeps no order there."""

    __slots__ = ("_number",)

    def __init__(self, number: int, *args: Any) -> None:
        self._number = number
        super().__init__(*args)

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        mine, its = self.when(), other.when()
        return mine < its or (mine == its and self._number < cast("_NumberedTimer", other)._number)


_take: Callable[[deque[asyncio.Handle]], asyncio.Handle] = deque.popleft  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


class _Ready(deque[asyncio.Handle]):
    """The loop's queue of callbacks, which notifies the loop when it takes one."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def popleft(self) -> asyncio.Handle:
        loop = self._loop
        loop._calls += 1
        if loop._breakpoints is not None:
            loop._breakpoints(loop._calls)
        return _take(self)  # what `super()` would find; this is the hottest line of an exploration


class _VirtualSelector(selectors.DefaultSelector):
    """Where a loop would wait, and the virtual one jumps instead. Real sockets still work."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._registered = 0

    def register(self, *args: Any, **options: Any) -> selectors.SelectorKey:
        key = super().register(*args, **options)
        self._registered += 1
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._registered -= 1
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop, sockets = self._loop, self._registered > 1  # the one is the loop's own, for other threads
        loop.begin_turn()
        if timeout is not None and timeout <= 0:
            return super().select(0) if sockets else []
        if events := super().select(0):
            return events
        patience = loop.patience(sockets=sockets)
        began = time.monotonic()
        while patience > 0 and time.monotonic() - began < patience:
            if (events := super().select(SLICE if patience > SLICE else patience)) or self._called_meanwhile():
                return events
            patience = loop.patience(sockets=sockets)
        if self._called_meanwhile():  # a thread calls first and is idle then: it may have done both since the last look
            return super().select(0)
        loop.jump(waited=patience > 0)
        return []

    def _called_meanwhile(self) -> bool:
        return bool(cast(Any, self._loop)._ready)


def where(task: asyncio.Task[Any]) -> str:
    """What a task waits in: the innermost function that belongs to neither asyncio nor anyio, with file and line."""
    here: Any = task.get_coro()
    found: Any = None
    while here is not None:
        frame: Any = getattr(here, "cr_frame", None) or getattr(here, "gi_frame", None)
        if frame is not None and (found is None or not _is_plumbing(frame.f_code.co_filename)):
            found = frame
        here = getattr(here, "cr_await", None) or getattr(here, "gi_yieldfrom", None)
    if found is None:
        return "a place that cannot be seen"
    return f"{found.f_code.co_qualname} ({PurePath(found.f_code.co_filename).name}:{found.f_lineno})"


def _is_plumbing(filename: str) -> bool:
    return not {"asyncio", "anyio"}.isdisjoint(PurePath(filename).parts)


def run_virtual(
    main: Callable[..., Coroutine[Any, Any, T]], *args: Any, patience: float = 1.0, max_turns: int | None = None
) -> T:
    """Run an async function on a fresh `VirtualLoop`, as `asyncio.run` would on a real one.

    Args:
        main: The async function; called with `args`.
        args: Handed to it.
        patience: Real seconds for which a busy worker thread holds the clock.
        max_turns: Give up after so many turns of the loop.

    Raises:
        Deadlock: All tasks wait for each other, or `max_turns` was reached.
        MisuseError: `main` is no async function, or an event loop runs here.

    ```python
    from softstop.testing import run_virtual

    async def an_hour() -> float:
        await anyio.sleep(3_600)
        return anyio.current_time()

    assert run_virtual(an_hour) == 3_600.0
    ```
    """
    typed(main, Callable, "main")
    if loop_here() is not None:
        raise MisuseError("run_virtual() runs a loop of its own; call it from a plain function, not from async code")
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(patience=patience, max_turns=max_turns)) as runner:
        return runner.run(main(*args))
