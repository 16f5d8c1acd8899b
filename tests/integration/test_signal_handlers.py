"""Handlers of `signal.signal`, which run between any two bytecodes of the loop's thread, and what is called in them."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import anyio
import pytest

from kit.foreign import turns
from kit.processes import finish, script
from softstop import Agent, Event, Limits, Run, RunContent, RunContext, RunPaused, RunStopRequested, StopMode, Usage
from softstop.log.log import MOST_RECENT, Log


@contextmanager
def alarms(act: Callable[[], object], first: float, rest: float = 0.0) -> Generator[None]:
    """Act in a handler, and again so long after that has returned: by the clock there might be no time between."""
    over: list[bool] = []

    def strike(number: int, frame: FrameType | None) -> None:
        act()
        if not over:
            signal.setitimer(signal.ITIMER_REAL, rest)

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, first)
    try:
        yield
    finally:
        over.append(True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_a_stop_in_a_signal_handler_wakes_a_loop_that_sleeps() -> None:
    async def sleeps(run: RunContext, message: object) -> None:
        await asyncio.sleep(1_000)

    run = Agent(sleeps).arun("go")
    with alarms(run.cancel, 0.1), anyio.fail_after(30):
        output = await run
    assert output.status == "cancelled"


async def test_a_stop_in_a_signal_handler_never_comes_between_the_number_of_an_event_and_the_event() -> None:
    async def pours(run: RunContext, message: object) -> None:
        while not run.stopping:
            for _ in range(50):
                run.write("x")
            await asyncio.sleep(0)

    async def one(number: int) -> Run:
        run = Agent(pours).arun("go")
        with alarms(run.cancel, 0.001 + number * 0.000_013, 0.000_2):
            await run
        return run

    for number in range(100):
        with anyio.fail_after(30):
            run = await one(number)
            events = [event async for event in run.events()]
        text = "".join(event.content for event in events if isinstance(event, RunContent))
        others = [event for event in events if not isinstance(event, RunContent)]
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        assert len(text) + len(others) == events[-1].seq  # a character for each delta, also where those are merged


async def status_of(run: Run) -> str:
    return (await run).status


async def last_event_of(run: Run) -> str:
    return [event async for event in run.events()][-1].status or ""


@pytest.mark.parametrize("wait", [status_of, last_event_of])
async def test_who_begins_to_wait_as_a_handler_ends_the_run_is_not_forgotten(
    wait: Callable[[Run], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(run: RunContext, message: object) -> None:
        raise NotImplementedError

    run, loop = Agent(never).arun("go"), asyncio.get_running_loop()
    create_future = loop.create_future

    def struck() -> asyncio.Future[Any]:
        """Called after the look whether the run has ended, and before anybody could be woken."""
        monkeypatch.undo()
        run.cancel()
        return create_future()

    monkeypatch.setattr(loop, "create_future", struck)
    with anyio.fail_after(30):
        assert await wait(run) == "cancelled"


ACTIONS: dict[str, tuple[Callable[[Run], object], type[Event]]] = {
    "cancel": (lambda run: run.cancel(mode=StopMode.now), RunStopRequested),
    "pause": (lambda run: run.pause(), RunPaused),
    "limits.update": (lambda run: run.limits.update(tokens=5), RunStopRequested),
}


def strike_in_the_next_write(log: Log, strike: Callable[[], object]) -> None:
    """The clock is read in the middle of a write: have a handler strike there."""
    clock = log.clock

    def strikes() -> float:
        log.clock = clock
        strike()
        return clock()

    log.clock = strikes


@pytest.mark.parametrize("first", [False, True], ids=["a later event", "the first event"])
@pytest.mark.parametrize("action", ACTIONS)
async def test_each_moment_of_a_write_at_which_a_handler_can_strike(action: str, first: bool) -> None:
    act, told = ACTIONS[action]

    async def body(run: RunContext, message: object) -> None:
        run.charge(Usage(output_tokens=10))
        if not first:
            strike_in_the_next_write(run._run.writer.log, lambda: act(handle))
        run.write("x")
        await asyncio.sleep(0.01)

    handle = Agent(body).arun("go", limits=Limits(tokens=100))
    if first:
        strike_in_the_next_write(handle._state.writer.log, lambda: act(handle))
    with anyio.fail_after(30):
        await handle
        events = [event async for event in handle.events()]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    names = [type(event) for event in events]
    assert names.count(told) == 1


async def test_each_line_of_a_fold_at_which_a_handler_can_strike() -> None:
    """A debugger's hook plays the handler: it strikes before the first line of a fold, then the second, and so on."""

    async def body(run: RunContext, strikes_at: int) -> int:
        lines, struck = 0, (Log.fold.__code__, Log._fold.__code__)

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal lines
            if frame.f_code not in struck:
                return None
            if event == "line":
                lines += 1
                if lines == strikes_at + 1:
                    handle.pause()
                    handle.resume()
            return trace

        before = sys.gettrace()
        for number in range(MOST_RECENT):
            if number == MOST_RECENT - 1:
                sys.settrace(trace)
            run.write(str(number))
        sys.settrace(before)
        return lines

    strikes_at, lines = 0, 1
    while strikes_at < lines:
        handle = Agent(body).arun(strikes_at)
        with anyio.fail_after(30):
            lines = (await handle.ended()).value
        events = [event async for event in handle.events()]
        seqs = [event.seq for event in events]
        assert seqs == sorted(set(seqs)), f"struck before line {strikes_at}"
        assert sum(isinstance(event, RunPaused) for event in events) == 1
        strikes_at += 1
    assert lines > 10


async def test_a_pause_in_a_signal_handler_is_told_at_once_and_a_resume_there_lets_the_run_go_on_at_once() -> None:
    paused = asyncio.Event()

    async def body(run: RunContext, message: object) -> None:
        await paused.wait()
        await run.boundary()

    run = Agent(body).arun("go")
    with anyio.fail_after(30):  # no other timer wakes the loop
        with alarms(run.pause, 0.1):
            async for event in run.events():
                if isinstance(event, RunPaused):
                    break
        paused.set()
        await turns()
        assert not run.status.ended
        with alarms(run.resume, 0.1):
            output = await run
    assert output.status == "completed"


async def test_a_limit_that_is_lowered_in_a_signal_handler_is_reached_in_time() -> None:
    async def sleeps(run: RunContext, message: object) -> None:
        await asyncio.sleep(1_000)

    run = Agent(sleeps).arun("go", limits=Limits(timeout=500))
    with alarms(lambda: run.limits.update(timeout=0.3), 0.1), anyio.fail_after(30):
        output = await run
    assert output.stop is not None
    assert output.stop.cause == "timeout"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_interrupts_no_wait_of_the_main_thread_wakes_an_idle_loop(number: signal.Signals) -> None:
    """It comes to another thread here, which for the main thread is as if it had come right before its wait."""
    with script(
        f"""
        def strike():
            time.sleep(0.5)  # the loop is idle by then, most likely
            signal.pthread_kill(threading.get_ident(), {int(number)})

        async def main():
            async with Supervisor(signals=True) as supervisor:
                run = supervisor.start(Agent(waits))
                threading.Thread(target=strike).start()
                say((await run).status)
            restored = signal.getsignal({int(number)}) in (signal.SIG_DFL, signal.default_int_handler)
            say(restored, signal.set_wakeup_fd(-1))

        asyncio.new_event_loop().run_until_complete(main())
        """
    ) as process:
        code, out, err = finish(process)
    assert out.splitlines() == ["begun", "interrupted", "cancelled", "True -1"]
    assert (code, err) == (0, "")
