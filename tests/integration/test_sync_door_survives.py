"""The sync door survives what runs, callers and the interpreter do to it (T18, T20)."""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kit.processes import finish, script, wait_for
from kit.threads import in_thread
from softstop import Agent, Event, Limits, RunContent, RunContext, RunStatus, StopCause, SyncEventStream, Usage

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def fine(run: RunContext, message: object) -> str:
    return "fine"


@pytest.mark.parametrize("leaves", [SystemExit, KeyboardInterrupt])
def test_what_leaves_the_interpreter_in_a_helper_task_of_a_run_ends_that_run_and_the_door_goes_on(
    leaves: type[BaseException],
) -> None:
    async def helper() -> None:
        raise leaves("out of here")

    async def body(run: RunContext, message: object) -> None:
        await asyncio.gather(helper())  # noqa: TID251 - users do

    try:
        output = in_thread(lambda: Agent(body).run("go"))
        assert output.status in (RunStatus.failed, RunStatus.cancelled)
    except KeyboardInterrupt:
        assert leaves is KeyboardInterrupt
    assert in_thread(lambda: Agent(fine).run("go")).value == "fine"


def test_a_sync_run_in_a_thread_of_a_step_is_a_member_with_the_stop_the_limits_and_the_context_of_its_run() -> None:
    seen: list[Any] = []

    async def below(run: RunContext, message: object) -> None:
        seen.append((run.parent_run_id, tenant.get()))
        run.charge(Usage(output_tokens=5))
        await anyio.sleep_forever()

    def tool() -> RunStatus:
        return Agent(below).run("go").status

    async def lead(run: RunContext, message: object) -> Any:
        tenant.set("ann")
        async with run.step("tool"):
            return await anyio.to_thread.run_sync(tool)

    async def main() -> Any:
        run = Agent(lead).arun("go", run_id="lead-1", limits=Limits(tokens=100))
        while not seen:
            await asyncio.sleep(0.01)
        run.cancel("enough")
        return await run.ended()

    with_limits = asyncio.run(main())
    assert seen == [("lead-1", "ann")]
    assert with_limits.status is RunStatus.cancelled
    assert [member.status for member in with_limits.members] == [RunStatus.cancelled]
    assert with_limits.members[0].stop.reason == "enough"
    assert with_limits.total_usage.output_tokens == 5


def test_a_sync_run_works_in_the_context_of_the_thread_that_called_it() -> None:
    async def body(run: RunContext, message: object) -> str:
        return tenant.get()

    def caller() -> Any:
        tenant.set("bob")
        return Agent(body).run("go").value

    assert in_thread(caller) == "bob"


def test_a_sync_stream_that_is_owned_stops_its_run_when_the_block_is_left() -> None:
    async def pours(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            run.write("word ")
            await run.stop_requested()
            await asyncio.sleep(0.2)
        async with run.step("refused"):
            pass

    def reader() -> Any:
        with Agent(pours).run("go", stream=True) as events:
            for event in events:
                if isinstance(event, RunContent):
                    break
        return events.output  # leaving the block has waited for it

    output = in_thread(reader)
    assert output.status is RunStatus.cancelled
    assert output.stop.cause is StopCause.caller_gone


async def test_a_generator_around_a_sync_stream_that_is_closed_in_a_loop_stops_the_run_and_blocks_nothing() -> None:
    begun, go_on = threading.Event(), threading.Event()
    streams: list[SyncEventStream] = []

    async def pay(run: RunContext, message: object) -> None:
        async with run.step("pay"):
            begun.set()
            await asyncio.to_thread(go_on.wait)
        async with run.step("refused"):
            pass

    def parts() -> Generator[Event]:  # as of a route of a web server that reads it in a pool of threads
        with Agent(pay).run("go", stream=True) as events:
            streams.append(events)
            yield from events

    generator = parts()
    await asyncio.to_thread(next, generator)
    await asyncio.to_thread(begun.wait)
    generator.close()  # as where the last reference goes
    assert streams[0].output is None
    go_on.set()
    await asyncio.to_thread(list, streams[0])
    output = streams[0].output
    assert output is not None
    assert output.stop is not None
    assert (output.status, output.stop.cause) == (RunStatus.cancelled, StopCause.caller_gone)


def test_a_sync_stream_ends_with_its_output() -> None:
    events = Agent(fine).run("go", stream=True)
    assert list(events)
    assert events.output is not None
    assert events.output.value == "fine"
    events.close()  # nothing is left to stop


def test_a_caller_that_an_alarm_tears_out_of_its_wait_is_a_caller_gone() -> None:
    with script(
        """
        class Soft(Exception): pass
        def soft(*_): raise Soft
        signal.signal(signal.SIGALRM, soft)
        told = []

        async def slow(run, message):
            async with run.step("pay"):
                say("begun")
                signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
                await run.stop_requested()
                while not told:
                    await asyncio.sleep(0.01)
                say("committed")

        try:
            Agent(slow).run("x", run_id="r1")
        except Soft:
            say("soft")
            run = softstop.supervisor.registry.registry.get("r1")
            while run.stop is None: time.sleep(0.01)  # the request has still to reach the other thread
            say("cause", run.stop.cause)
            told.append(True)
            while softstop.cancel_run("r1"): time.sleep(0.01)
            say("over")
        """
    ) as process:
        code, out, err = finish(process)
    assert out.split() == ["begun", "soft", "cause", "caller_gone", "committed", "over"], err
    assert code == 0


def test_a_caller_that_is_torn_out_before_its_run_has_begun_is_gone_all_the_same() -> None:
    with script(
        """
        import traceback
        class Soft(Exception): pass
        def soft(*_): raise Soft
        signal.signal(signal.SIGALRM, soft)
        begun, torn = threading.Event(), threading.Event()

        def waits_for_its_start():
            here = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
            return here[-1].name == "wait" and any(frame.name == "run_sync" for frame in here)

        async def keeps_the_loop_busy(run, message):
            begun.set()
            while not waits_for_its_start(): time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            torn.wait(1)

        async def tells(run, message):
            async with run.step("wait"):
                say((await run.stop_requested()).cause)

        async def nothing(run, message): pass

        other = threading.Thread(target=Agent(keeps_the_loop_busy).run, args=("x",))
        other.start()
        begun.wait()
        try:
            Agent(tells).run("x", run_id="r1")
        except Soft:
            torn.set()
            say("soft")
        other.join()
        Agent(nothing).run("y")  # what was to begin before it has begun
        while softstop.cancel_run("r1"): time.sleep(0.01)
        """
    ) as process:
        code, out, err = finish(process)
    assert set(out.split()) - {"caller_gone"} == {"soft"}, err  # it may have been stopped before its body
    assert code == 0


def test_leaving_the_interpreter_lets_a_step_that_has_begun_end() -> None:
    with script(
        """
        def leave(*_): sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        Agent(pays).run("x")
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGTERM)
        code, out, err = finish(process)
    assert out.split() == ["committed"], err
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["softstop.run(main)", "asyncio.run(around())"])
def test_a_signal_stops_the_runs_of_threads_for_which_main_waits(number: signal.Signals, program: str) -> None:
    with script(
        f"""
        async def main():
            output = await asyncio.to_thread(Agent(pays).run)
            say(output.status, output.stop.cause, output.stop.reason)
            say((await asyncio.to_thread(Agent(fine).run)).status)

        async def fine(run, message):
            pass

        async def around():
            async with Supervisor(signals=True):
                await main()

        {program}
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(number)
        code, out, err = finish(process)
    assert out.splitlines() == ["committed", f"cancelled shutdown {number.name}", "completed"]
    assert (code, err) == (0, "")


def test_a_sync_run_that_comes_after_the_end_of_the_door_says_so() -> None:
    with script(
        """
        import atexit
        Agent(waits)
        def late():
            try:
                Agent(pays).run("x")
            except softstop.MisuseError as error:
                say("refused:", error)
        softstop.supervisor.portal.atexit.unregister(softstop.supervisor.portal.portal.close)
        atexit.register(late)
        atexit.register(softstop.supervisor.portal.portal.close)
        async def quick(run, message): return 1
        Agent(quick).run("x")
        """
    ) as process:
        code, out, err = finish(process)
    assert out.startswith("refused: the interpreter exits"), out + err
    assert code == 0


def test_a_sync_run_works_after_one_for_which_no_supervisor_could_be_made() -> None:
    with script(
        """
        made = iter([5, Supervisor()])
        softstop.configure(lambda: next(made))
        async def quick(run, message): return "fine"
        try:
            Agent(quick).run("x")
        except softstop.MisuseError as error:
            say("refused:", error)
        say(Agent(quick).run("x").value)
        """
    ) as process:
        code, out, err = finish(process)
    assert out.startswith("refused: what the function given to softstop.configure returns must be Supervisor"), err
    assert out.endswith("fine\n"), err
    assert code == 0


def test_many_threads_and_a_run_that_leaves_hang_nobody() -> None:
    async def leaves(run: RunContext, message: object) -> None:
        async def helper() -> None:
            sys.exit(3)

        await asyncio.gather(helper())  # noqa: TID251 - users do

    ended: list[Any] = []

    def call(agent: Agent) -> None:
        ended.append(agent.run("go").status)

    threads = [threading.Thread(target=call, args=(Agent(leaves if n % 2 else fine),)) for n in range(10)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    assert len(ended) == 10
