"""Ctrl-C, SIGTERM and the end of `main` are stops, not tears (T19): real processes, real signals."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import httpx2
import pytest

import softstop
from kit.processes import finish, script, wait_for
from kit.server import free_port, until_answers
from softstop import MisuseError, Supervisor

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
OWN_BLOCK = """
    async def main():
        async with Supervisor(signals=True) as supervisor:
            output = await supervisor.start(Agent(pays))
            say(output.status, output.stop.cause, output.stop.reason)
        say("main ends")

    asyncio.run(main())
"""
FORKS = """
        async def body(run, message):
            async with run.step("fork"):
                reads, writes = os.pipe()
                forked = os.fork()
                if forked == 0:
                    os._exit(child(writes))
                os.read(reads, 1)
                os.kill(forked, signal.SIGTERM)
                say(os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, forked, 0))[1]))

        async def main():
            say((await Agent(body).arun("go")).status)

        softstop.run(main)
        """
DEAF = """
    async def deaf(run, message):
        async with run.step("pay"):
            say("begun")
            await run.stop_requested()
            say("asked")
            for _ in range(100):
                try:
                    await asyncio.sleep(0.1)
                except asyncio.CancelledError:
                    say("cut")

    async def main():
        async with Supervisor(signals=True) as supervisor:
            say((await supervisor.start(Agent(deaf))).status)
"""


@BOTH
def test_a_signal_lets_the_step_end_and_main_sees_the_output(number: signal.Signals) -> None:
    with script(OWN_BLOCK) as process:
        wait_for(process, "begun")
        process.send_signal(number)
        code, out, err = finish(process)
    assert out.splitlines() == ["committed", f"cancelled shutdown {number.name}", "main ends"]
    assert (code, err) == (0, "")


@BOTH
def test_a_second_signal_stops_at_once(number: signal.Signals) -> None:
    with script(
        """
        async def slow(run, message):
            async with run.step("pay"):
                say("begun")
                await asyncio.sleep(1_000)

        async def main():
            async with Supervisor(signals=True) as supervisor:
                run = supervisor.start(Agent(slow))
                async for event in run:
                    if event.event == "RunStopRequested":
                        say("asked", event.mode)
                say(run.output.stop.mode, run.output.steps[0].status)

        asyncio.run(main())
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(number)
        wait_for(process, "asked step")
        process.send_signal(number)
        code, out, _ = finish(process)
    assert out.splitlines() == ["asked now", "now unsettled"]
    assert code == 0


@BOTH
def test_a_third_signal_does_what_it_does_without_softstop(number: signal.Signals) -> None:
    with script(DEAF + "\n    asyncio.run(main())") as process:
        wait_for(process, "begun")
        process.send_signal(number)
        wait_for(process, "asked")
        process.send_signal(number)
        wait_for(process, "cut")
        process.send_signal(number)
        code, *_ = finish(process)
    assert code == -number


@BOTH
def test_handlers_that_were_there_come_back_and_those_of_others_are_called(number: signal.Signals) -> None:
    with script(
        f"""
        def theirs(number, frame):
            os.write(1, b"theirs\\n")  # not `say`: the signal may come in the middle of one

        async def main():
            async with Supervisor(signals=True) as supervisor:
                say((await supervisor.start(Agent(pays))).status)
            assert signal.getsignal({int(number)}) is theirs

        signal.signal({int(number)}, theirs)
        asyncio.run(main())
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(number)
        code, out, err = finish(process)
    assert (out.split(), code, err) == (["theirs", "committed", "cancelled"], 0, "")


def test_a_handler_that_was_set_inside_the_block_stays() -> None:
    def theirs(number: int, frame: object) -> None:
        raise NotImplementedError

    async def main() -> None:
        async with Supervisor(signals=True):
            signal.signal(signal.SIGTERM, theirs)

    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.run(main())
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_loop_is_called_as_well() -> None:
    with script(
        """
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, say, "theirs")
            async with Supervisor(signals=True) as supervisor:
                say((await supervisor.start(Agent(pays))).status)

        asyncio.run(main())
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGTERM)
        code, out, err = finish(process)
    assert (sorted(out.split()), code, err) == (["cancelled", "committed", "theirs"], 0, "")


def test_in_another_thread_it_is_misuse_that_says_so() -> None:
    raised: list[BaseException] = []

    async def main() -> None:
        with pytest.raises(MisuseError, match="main thread") as caught:
            async with Supervisor(signals=True):
                raise AssertionError
        raised.append(caught.value)

    thread = threading.Thread(target=lambda: __import__("asyncio").run(main()))
    thread.start()
    thread.join(10)
    assert raised


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_ended_by_its_first_sigterm_and_its_parent_goes_on() -> None:
    with script(
        """
        def child(writes):
            os.write(writes, b"1")  # Python forgets a signal that comes while it forks
            for _ in range(6_000):  # nor does it end a sleep that begins as the signal comes
                time.sleep(0.01)
            return 7
        """
        + FORKS
    ) as process:
        code, out, err = finish(process)
    assert out.split() == [str(-signal.SIGTERM), "completed"], err
    assert code == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_with_a_program_of_its_own_lets_its_steps_end_at_sigterm() -> None:
    with script(
        """
        async def pay(run, writes):
            async with run.step("pay"):
                os.write(writes, b"1")
                while not run.stopping:  # nothing wakes a loop that begins to wait as the signal comes
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
            await asyncio.sleep(1_000)

        async def in_child(writes):
            output = await Agent(pay).arun(writes)
            return [step.status for step in output.steps] == ["completed"]

        def child(writes):
            return 5 if softstop.run(in_child, writes) else 6
        """
        + FORKS
    ) as process:
        code, out, err = finish(process)
    assert out.split() == ["5", "completed"], err
    assert code == 0


# -- softstop.run ----------------------------------------------------------------------------------------------------


def test_it_returns_what_main_returns_and_takes_its_arguments() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def main(left: int, right: int) -> int:
        return left + right

    assert softstop.run(main, 2, 3) == 5
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@BOTH
def test_main_that_waits_for_ever_is_cancelled_after_the_last_run_has_ended(number: signal.Signals) -> None:
    with script(
        """
        async def main():
            run = Agent(pays).arun("go")
            try:
                await asyncio.sleep(1_000)
            finally:
                say(run.status, run.stop.reason)

        softstop.run(main)
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(number)
        code, out, _ = finish(process)
    assert out.splitlines() == ["committed", f"cancelled {number.name}"]
    assert code == (-signal.SIGINT if number == signal.SIGINT else 143)


@pytest.mark.parametrize("end", ["return 'value'", "raise ValueError('its own')"])
def test_the_end_of_main_with_a_live_run_is_a_drain_and_one_line_says_so(end: str) -> None:
    with script(
        f"""
        async def main():
            run = Agent(pays).arun("go")
            await asyncio.sleep(0.4)
            {end}

        say(softstop.run(main))
        """
    ) as process:
        code, out, err = finish(process)
    assert out.split()[:2] == ["begun", "committed"]
    assert "main has ended with 1 live run(s), first 'pays' in step 'pay'" in err
    if end.startswith("return"):
        assert (code, out.split()[2:], err.count("\n")) == (0, ["value"], 1)
    else:
        assert (code, "ValueError: its own" in err) == (1, True)


def test_a_coroutine_in_place_of_the_function_is_misuse_with_the_next_move() -> None:
    async def main() -> None:
        raise AssertionError

    wrong: Any = main()
    assert isinstance(wrong, Coroutine)
    with pytest.raises(MisuseError, match=r"softstop\.run\(main\), not coroutine"):
        softstop.run(wrong)


def test_another_cancel_of_main_is_not_taken_for_ours() -> None:
    with script(
        """
        async def main():
            asyncio.current_task().cancel()
            await asyncio.sleep(1)

        try:
            softstop.run(main)
        except asyncio.CancelledError:
            say("cancelled")
        """
    ) as process:
        code, out, _ = finish(process)
    assert (code, out.split()) == (0, ["cancelled"])


@pytest.mark.parametrize("program", ["softstop.run(main)", "asyncio.run(around())"])
def test_a_signal_stops_the_runs_of_supervisors_in_the_block_of_the_one_that_has_it(program: str) -> None:
    with script(
        f"""
        async def slow(run, message):
            async with run.step("pay"):
                say("begun")
                await run.stop_requested()
                say("committed")

        async def main():
            async with Supervisor() as supervisor:  # of a library, say, that knows nothing of signals
                output = await supervisor.start(Agent(slow))
                say(output.status, output.stop.reason)

        async def around():
            async with Supervisor(signals=True):
                await main()

        {program}
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
    assert out.splitlines() == ["committed", "completed SIGINT"]
    assert (code, err) == (0, "")


# -- A web server ----------------------------------------------------------------------------------------------------


def test_sigterm_ends_the_streams_of_the_fastapi_example_with_their_outcomes() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    examples = os.path.join(os.path.dirname(__file__), "..", "..", "examples")
    with script(
        f"""
        sys.path.insert(0, {examples!r})
        import stop_button_fastapi as example, uvicorn

        async def endless(run, message):
            run.write("once")
            say("begun")
            await asyncio.sleep(1_000)

        example.storyteller = endless
        uvicorn.run(example.app, port={port}, log_level="warning")
        """
    ) as process:
        names: list[str] = []
        until_answers(url)
        with (
            httpx2.Client(base_url=url, timeout=20) as client,
            client.stream("POST", "/chat", json={"message": "dragons"}) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    names.append(json.loads(line.removeprefix("data: "))["event"])
                    if names[-1] == "RunContent":
                        process.send_signal(signal.SIGTERM)
        code, _, err = finish(process)
    assert names == ["RunStarted", "RunContent", "RunStopRequested", "RunCancelled"]
    assert (code, err) == (-signal.SIGTERM, "")
