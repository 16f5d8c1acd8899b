"""Whole processes: Ctrl-C, fork and the end of the interpreter, each in a bounded time and with the truth told."""

import os
import signal

import pytest

from kit.processes import finish, script, wait_for

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_ctrl_c_in_a_sync_run_waits_for_the_step_and_is_raised_then(stream: bool) -> None:
    call = "for _ in Agent(pays).run('go', stream=True): pass" if stream else "Agent(pays).run('go')"
    with script(
        f"""
        try:
            {call}
        except KeyboardInterrupt:
            say("raised")
            raise
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
    assert out.split() == ["committed", "raised"]
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def test_a_second_ctrl_c_does_not_wait_for_the_step() -> None:
    with script(
        """
        async def slow(run, message):
            async with run.step("pay"):
                say("begun")
                await run.stop_requested()
                say("asked")
                await asyncio.sleep(1_000)
                say("committed")

        Agent(slow).run("go")
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGINT)
        wait_for(process, "asked")
        assert process.poll() is None, "the first one waits for the step"
        process.send_signal(signal.SIGINT)
        code, out, _ = finish(process)
    assert "committed" not in out
    assert code == -signal.SIGINT


def test_ctrl_c_between_steps_ends_a_sync_run_at_once_with_its_clean_up() -> None:
    with script("Agent(waits).run('go')") as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGINT)
        code, out, _ = finish(process)
    assert out.split() == ["interrupted"]
    assert code == -signal.SIGINT


def test_ctrl_c_under_asyncio_run_leaves_the_supervisor_at_once_and_every_run_with_its_outcome() -> None:
    with script(
        """
        async def main():
            async with Supervisor() as supervisor:
                runs.append(supervisor.start(Agent(waits)))
                await asyncio.sleep(1_000)

        runs = []
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say(runs[0].status.value, runs[0].stop.cause.value, runs[0].stop.mode.value)
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGINT)
        code, out, _ = finish(process)
    assert out.split() == ["interrupted", "cancelled", "shutdown", "now"]
    assert code == 0


def test_a_keyboard_interrupt_inside_a_step_reaches_the_process() -> None:
    with script(
        """
        async def body(run, message):
            async with run.step("tool"):
                raise KeyboardInterrupt

        async def main():
            async with Supervisor() as supervisor:
                await supervisor.start(Agent(body)).ended()

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            say("told the process")
        """
    ) as process:
        code, out, err = finish(process)
    assert out.split("\n")[0] == "told the process", err
    assert code == 0


# -- the end of the interpreter --------------------------------------------------------------------------------------


def test_the_interpreter_ends_promptly_with_live_sync_runs_and_they_get_an_outcome() -> None:
    with script(
        """
        streams = [Agent(waits).run("go", stream=True) for _ in range(5)]
        for stream in streams:
            next(stream), next(stream)
        say("main is over")
        """
    ) as process:
        wait_for(process, "main is over")
        code, out, err = finish(process)
    assert code == 0, err
    assert out.split().count("interrupted") == 5


def test_the_interpreter_ends_promptly_with_a_sync_run_that_will_not_stop() -> None:
    with script(
        """
        async def deaf(run, message):
            say("begun")
            run.write("begun")
            while True:
                try:
                    await asyncio.sleep(1_000)
                except asyncio.CancelledError:
                    pass

        stream = Agent(deaf).run("go", stream=True)
        next(stream), next(stream)
        """
    ) as process:
        wait_for(process, "begun")
        code, _, err = finish(process)
    assert code == 0, err


def test_asyncio_run_ends_promptly_with_live_runs_and_a_hundred_open_readers() -> None:
    with script(
        """
        async def main():
            run = Agent(waits).arun("go")
            readers = [aiter(run.events()) for _ in range(100)]
            for reader in readers:
                await anext(reader)
            await asyncio.sleep(0.5)
            keep.extend(readers)
            return run

        keep = []
        run = asyncio.run(main())
        say(run.status.value, run.stop.cause.value)
        """
    ) as process:
        wait_for(process, "begun")
        code, out, err = finish(process)
    assert code == 0, err
    assert out.split() == ["interrupted", "cancelled", "shutdown"]
    assert "never retrieved" not in err
    assert "was destroyed" not in err


# -- fork ------------------------------------------------------------------------------------------------------------


@needs_fork
def test_a_forked_child_owns_none_of_its_parent_s_runs_and_works_by_itself() -> None:
    with script(
        """
        stream = Agent(waits).run("go", stream=True, run_id="r1")
        next(stream)
        child = os.fork()
        if child == 0:
            owned = softstop.cancel_run("r1")
            async def short(run, message):
                return message
            same_id = Agent(short).run("hello", run_id="r1", budgets=[Budget(tokens=10)])
            os._exit(0 if (owned, same_id.value) == (False, "hello") else 1)
        _, status = os.waitpid(child, 0)
        say("child", os.waitstatus_to_exitcode(status))
        say("parent", softstop.cancel_run("r1"), list(stream)[-1].cause.value)
        """
    ) as process:
        code, out, err = finish(process)
    assert code == 0, err
    assert "child 0" in out, err
    assert "parent True user" in out


@needs_fork
def test_locks_that_are_held_at_the_fork_do_not_stay_held_in_the_child() -> None:
    with script(
        """
        from softstop.runs.ending import mailbox
        from softstop.supervisor.defaults import defaults
        from softstop.supervisor.portal import portal
        from softstop.law import ledgers

        def hold(lock):
            with lock.held:
                held.release()
                time.sleep(1_000)

        held = threading.Semaphore(0)
        locks = [mailbox, defaults._lock, portal._lock, ledgers._lock]
        for lock in locks:
            threading.Thread(target=hold, args=(lock,), daemon=True).start()
        for _ in locks:
            held.acquire()
        child = os.fork()
        if child == 0:
            async def body(run, message):
                async with run.step("call", reserve=Usage(output_tokens=5)):
                    run.charge(Usage(output_tokens=5))
                return "done"
            budget = Budget(tokens=10)
            async def main():
                return await Agent(body).arun("go", budgets=[budget])
            fine = asyncio.run(main()).value == Agent(body).run("go", budgets=[budget]).value == "done"
            os._exit(0 if fine and budget.spent.tokens == 10 else 1)
        for _ in range(400):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            say("the child hangs")
            os._exit(1)
        say("child", os.waitstatus_to_exitcode(status))
        os._exit(0)
        """
    ) as process:
        code, out, err = finish(process)
    assert "child 0" in out, out + err
    assert code == 0


@needs_fork
def test_multiprocessing_by_fork_runs_agents_in_its_children() -> None:
    with script(
        """
        import multiprocessing

        async def body(run, message):
            run.write(f"{message}")

        def work(number):
            return Agent(body).run(number).content

        Agent(body).run("in the parent first")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            say(*pool.map(work, range(6)))
        """
    ) as process:
        code, out, err = finish(process)
    assert out.split() == ["0", "1", "2", "3", "4", "5"], err
    assert code == 0


@needs_fork
@pytest.mark.parametrize("starts", ["Agent(work).run(number).content", "asyncio.run(arun(number))"])
def test_a_child_that_a_step_forks_is_in_no_run_of_its_parent_and_its_agents_run(starts: str) -> None:
    with script(
        f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        async def work(run, message):
            run.write(f"{{message}} {{run.parent_run_id}}")

        async def arun(number):
            return (await Agent(work).arun(number)).content

        def in_child(number):
            return f"{{softstop.current_run()}} {{{starts}}}"

        async def body(run, message):
            async with run.step("fork"):
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
                    say(await asyncio.get_running_loop().run_in_executor(pool, in_child, 7))

        say(Agent(body).run("go").status)
        """
    ) as process:
        code, out, err = finish(process)
    assert out.splitlines() == ["None 7 None", "completed"], err
    assert code == 0


# -- what stays ------------------------------------------------------------------------------------------------------


def test_a_body_that_swallows_its_cancellation_and_keeps_asyncio_run_alive_is_named_on_stderr() -> None:
    with script(
        """
        async def deaf(run, message):
            while True:
                try:
                    await asyncio.sleep(1_000)
                except BaseException:
                    pass

        async def main():
            async with Supervisor(policy=StopPolicy(grace=0.1, abandon_after=0.1)) as supervisor:
                run = supervisor.start(Agent(deaf), run_id="r1")
                await asyncio.sleep(0.1)
                run.cancel()

        asyncio.run(main())
        """
    ) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        assert process.poll() is None, "it hangs, as no library can prevent"
    assert told.startswith("run r1 of deaf has ended without its code, which ignores its cancellation at <string>:")
    assert "in deaf > tasks.py" in told


def test_a_run_that_fails_says_so_on_stderr_and_so_does_one_that_the_end_of_main_tears() -> None:
    with script(
        """
        async def fails(run, message):
            raise KeyError("a private text")

        async def main():
            await Agent(fails).arun("x", run_id="r1")
            Agent(pays).arun("x", run_id="r2")
            await asyncio.sleep(0.05)

        asyncio.run(main())
        """
    ) as process:
        code, _, err = finish(process)
    assert code == 0
    assert "run r1 of fails failed with KeyError; its text is in output.errors" in err
    assert "run r2 of pays: its task was cancelled in the middle of step 'pay'" in err


def test_a_run_that_nobody_awaits_and_that_the_end_of_main_ends_is_told_on_stderr() -> None:
    with script(
        """
        async def main():
            Agent(waits).arun("x", run_id="r1")
            await asyncio.sleep(0.05)

        asyncio.run(main())
        """
    ) as process:
        code, _, err = finish(process)
    assert code == 0
    assert err.startswith("run r1 of waits ended early: its task was cancelled, as asyncio.run does")


def test_a_payment_that_ctrl_c_tears_under_plain_asyncio_run_is_named_on_stderr() -> None:
    with script(
        """
        async def main():
            await Agent(pays).arun("x", run_id="r1")

        asyncio.run(main())
        """
    ) as process:
        wait_for(process, "begun")
        process.send_signal(signal.SIGINT)
        _, out, err = finish(process)
    assert "committed" not in out
    assert "run r1 of pays: its task was cancelled in the middle of step 'pay'" in err
