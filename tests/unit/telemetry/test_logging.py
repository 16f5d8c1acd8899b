"""What is logged: two INFO lines a run where structlog is configured, failures in any case, and no word of content."""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
import structlog

from kit.lawless import secretive
from kit.runs import Notes, deaf, now
from softstop import Agent, Limits, RunContext, RunStatus, StopPolicy, Supervisor, Usage
from softstop.testing import run_virtual, stop_everywhere

Line = dict[str, Any]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    """All that structlog is told, configured as an application would."""
    captured: list[Line] = []

    def keep(logger: object, method: str, line: Line) -> Line:
        captured.append({**line, "level": method})
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield captured
    structlog.reset_defaults()


async def test_given_observers_hear_of_every_event_beside_the_journal(lines: list[Line]) -> None:
    heard: list[str] = []
    async with Supervisor(observers=[Notes(lambda event: heard.append(type(event).__name__))]) as supervisor:
        await supervisor.start(Agent(quiet))
    assert lines
    assert (heard[0], heard[-1]) == ("RunStarted", "RunCompleted")


async def quiet(run: RunContext, message: object) -> str:
    async for word in run.stream("write", source()):
        run.write(word)
    async with run.step("pay"):
        await anyio.sleep(3)
        run.charge(Usage(input_tokens=3, output_tokens=4, cost_nano_usd=5))
    return "done"


async def source():  # type: ignore[no-untyped-def]
    for _ in range(100):
        yield "word "


async def slow(run: RunContext, message: object) -> None:
    async with run.step("pay"):
        await anyio.sleep(1_000)


def at_info(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["level"] in ("info", "warning", "error", "critical", "exception")]


async def test_a_library_is_silent_about_what_went_well_unless_the_application_has_configured_structlog(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    structlog.reset_defaults()
    async with Supervisor(policy=StopPolicy(grace=1)) as supervisor:
        await supervisor.start(Agent(quiet)).ended()
        run = supervisor.start(Agent(slow))
        await anyio.sleep(1)
        run.cancel("enough")
        await run.ended()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert caplog.records == []


async def test_a_run_that_lends_its_slot_says_to_whom_and_one_that_waited_too_long_why_it_ended(
    lines: list[Line],
) -> None:
    async def lead(run: RunContext, message: object) -> None:
        supervisor.start(Agent(quiet), run_id="late", limits=Limits(queue_timeout=5))
        await supervisor.start(Agent(slow), run_id="leaf", limits=Limits(timeout=20))

    async with Supervisor(max_running=1) as supervisor:
        await supervisor.start(Agent(lead), run_id="lead").ended()
    [lent] = [line for line in at_info(lines) if line["event"] == "run.slot_lent"]
    assert (lent["run_id"], lent["to"]) == ("lead", "leaf")
    [late] = [line for line in at_info(lines) if line["run_id"] == "late"]
    assert (late["event"], late["status"], late["cause"]) == ("run.ended", "cancelled", "timeout")
    assert "cost_nano_usd" not in late, "nothing that had a price was charged"


async def test_a_run_writes_two_lines_its_start_and_its_end_with_totals(lines: list[Line]) -> None:
    async with Supervisor(clock=now) as supervisor:
        run = supervisor.start(Agent(quiet, name="Quiet"), run_id="r1", user_id="u1")
        await run.ended()
    told = at_info(lines)
    assert [line["event"] for line in told] == ["run.started", "run.ended"]
    assert {line["run_id"] for line in lines} == {"r1"}
    end = told[1]
    assert (end["status"], end["total_tokens"], end["cost_nano_usd"], end["steps"]) == ("completed", 7, 5, 2)
    assert end["duration_s"] == 3.0


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "before the start", "abandoned"])
async def test_no_run_writes_more_than_two_lines_at_info_whatever_its_end(end: str, lines: list[Line]) -> None:
    async def body(run: RunContext, message: object) -> None:
        if end == "failed":
            raise KeyError("x")
        if end == "cancelled":
            await anyio.sleep(1_000)
        if end == "abandoned":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body))
        if end == "before the start":
            run.cancel()
        await anyio.sleep(1)
        run.cancel()
        await run.ended()
        await anyio.sleep(60)
    info = [line for line in lines if line["level"] == "info"]
    assert len(info) <= 2
    assert info[-1]["event"] == "run.ended"
    assert info[-1]["status"] in ("completed", "failed", "cancelled")


async def test_a_stop_is_told_at_debug_and_an_escalation_as_a_warning(lines: list[Line]) -> None:
    async with Supervisor(policy=StopPolicy(grace=1)) as supervisor:
        run = supervisor.start(Agent(slow))
        await anyio.sleep(1)
        run.cancel()
        await run.ended()
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "run.started"), ("debug", "run.stop_requested"), ("warning", "run.escalated"), ("info", "run.ended"),
    ]  # fmt: skip
    assert lines[-1]["cause"] == "user"


async def test_no_line_is_written_for_a_delta_a_step_or_a_charge(lines: list[Line]) -> None:
    async def body(run: RunContext, message: object) -> None:
        for number in range(500):
            run.write("word ")
            run.charge(Usage(output_tokens=1))
            async with run.step(f"step {number}"):
                pass

    async with Supervisor() as supervisor:
        await supervisor.start(Agent(body)).ended()
    assert len(lines) == 2


async def test_members_have_lines_of_their_own_with_their_parent(lines: list[Line]) -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(quiet), "go", run_id="m")

    async with Supervisor() as supervisor:
        await supervisor.start(Agent(lead), run_id="lead").ended()
    assert [(line["event"], line["run_id"]) for line in lines] == [
        ("run.started", "lead"), ("run.started", "m"), ("run.ended", "m"), ("run.ended", "lead"),
    ]  # fmt: skip
    assert lines[1]["parent_run_id"] == "lead"


async def test_names_are_constant_and_values_are_plain(lines: list[Line]) -> None:
    async def body(run: RunContext, message: object) -> None:
        async with run.step("\x1b[31mred\n{event}"):
            await anyio.sleep(1_000)

    async with Supervisor(policy=StopPolicy(grace=1)) as supervisor:
        run = supervisor.start(Agent(body, name="a\nname\x1b[0m with lines"), limits=Limits(timeout=1))
        await run.ended()
    allowed = {"run.started", "run.ended", "run.stop_requested", "run.escalated"}
    assert {line["event"] for line in lines} <= allowed
    for line in lines:
        assert json.loads(json.dumps(line)) == line, "every value is a plain JSON value"


async def test_what_the_application_binds_for_itself_is_kept_and_not_overwritten(lines: list[Line]) -> None:
    with structlog.contextvars.bound_contextvars(request_id="q7"):
        async with Supervisor() as supervisor:
            await supervisor.start(Agent(quiet), run_id="r1").ended()
    assert {line.get("request_id") for line in lines} == {"q7"}
    assert {line["run_id"] for line in lines} == {"r1"}


@pytest.mark.parametrize("end", ["completes", "fails", "is stopped", "is cut"])
def test_no_prompt_content_reason_argument_or_error_is_ever_logged(end: str) -> None:
    captured: list[Line] = []

    def keep(logger: object, method: str, line: Line) -> Line:
        captured.append(dict(line))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        secrets = run_virtual(secretive, end)
    finally:
        structlog.reset_defaults()
    told = repr(captured)
    assert captured
    for what, secret in secrets.items():
        assert secret not in told, f"{what} was logged"


async def test_an_error_of_the_application_s_own_log_processors_fails_no_run() -> None:
    def broken(logger: object, method: str, line: Line) -> Line:
        raise RuntimeError("disk full")

    structlog.configure(processors=[broken])
    try:
        async with Supervisor() as supervisor:
            assert (await supervisor.start(Agent(quiet)).ended()).status.value == "completed"
    finally:
        structlog.reset_defaults()


async def test_a_supervisor_keeps_no_logger_of_a_run_that_has_ended(lines: list[Line]) -> None:
    async with Supervisor() as supervisor:
        for _ in range(3):
            await supervisor.start(Agent(quiet)).ended()
        run = supervisor.start(Agent(slow))
        run.cancel()
        await run.ended()
        assert supervisor._state.journal._loggers == {}


async def test_an_application_that_configures_its_log_anew_gets_the_lines_of_later_runs_there(
    lines: list[Line],
) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(Agent(quiet)).ended()
        before, later = list(lines), structlog.testing.LogCapture()
        structlog.configure(processors=[later])
        await supervisor.start(Agent(quiet)).ended()
    assert [line["event"] for line in later.entries] == ["run.started", "run.ended"]
    assert lines == before


# -- what is told in any case ------------------------------------------------------------------------------------------


async def fails(run: RunContext, message: object) -> None:
    raise KeyError("a private text")


@pytest.mark.parametrize("how", ["by itself", "in a group"])
async def test_a_run_that_fails_is_told_with_its_id_type_and_trace_where_no_log_is_configured(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(run: RunContext, message: object) -> None:
        if how == "by itself":
            await fails(run, message)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails, run, message)

    output = await Agent(body, name="Shop\nkeeper").arun("x", run_id="r1")
    assert output.status.value == "failed"
    [record] = [record for record in caplog.records if record.name == "softstop"]
    assert record.levelname == "ERROR"
    told = record.getMessage()
    assert told.startswith("run r1 of Shop keeper failed with KeyError; its text is in output.errors")
    assert "in fails" in told
    assert "raise KeyError(" in told
    assert "private text" not in told.replace('raise KeyError("a private text")', "")


async def test_a_failure_is_told_to_structlog_instead_if_the_application_has_configured_it(
    lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    await Agent(fails, name="Shop").arun("x", run_id="r1")
    [line] = [line for line in lines if line["level"] == "error"]
    assert (line["event"], line["run_id"], line["agent"]) == ("run.failed", "r1", "Shop")
    assert line["error_type"] == "KeyError"
    assert "in fails" in line["trace"]
    assert caplog.records == []


async def test_a_member_that_fails_is_told_as_its_parent_is(caplog: pytest.LogCaptureFixture) -> None:
    async def lead(run: RunContext, message: object) -> None:
        await run.member(Agent(fails), "go", run_id="m")

    assert (await Agent(lead).arun("x")).status.value == "completed"
    assert [record.getMessage().split()[1] for record in caplog.records] == ["m"]


async def test_where_a_member_has_failed_its_parents_lines_show_no_trace_of_their_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A failure in a deep tree would have been told with a trace at each level."""

    async def lead(run: RunContext, message: object) -> None:
        (await run.member(Agent(fails, name="leaf"), "go")).raise_for_status()

    assert (await Agent(lead, name="lead").arun("x")).status is RunStatus.failed
    leaf, parent = (record.getMessage() for record in caplog.records)
    assert "in fails" in leaf
    assert "of lead failed with RunErrored" in parent
    assert "File" not in parent


@pytest.mark.leaves_tasks
@pytest.mark.parametrize("where", ["in the body", "in a step of a helper"])
async def test_code_that_swallows_its_cancellation_is_named_with_its_place(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def helper(run: RunContext) -> None:
        async with run.step("pay"):
            await deaf(60)

    async def body(run: RunContext, message: object) -> None:
        if where == "in the body":
            await deaf(60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(helper, run)

    async with Supervisor(policy=StopPolicy(grace=1, abandon_after=1)) as supervisor:
        run = supervisor.start(Agent(body, name="Deaf"), run_id="r1")
        await anyio.sleep(1)
        run.cancel()
        await run.ended()
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage().startswith("run r1 of Deaf has ended without its code, which ignores its cancell")
        assert " in deaf > " in record.getMessage()
        assert "driving.py" not in record.getMessage(), "nor any other place in softstop"
        await anyio.sleep(60)


async def test_a_step_that_is_torn_by_a_cancel_of_the_run_s_task_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with Supervisor() as supervisor:
        run = supervisor.start(Agent(slow, name="Shop"), run_id="r1")
        await anyio.sleep(1)
        [task] = [task for task, run_id in supervisor.statistics().tasks.items() if run_id == "r1"]
        task.cancel()  # as asyncio.run cancels all tasks when main ends
        await run.ended()
    torn, lost = caplog.records
    assert (torn.levelname, lost.levelname) == ("WARNING", "WARNING")
    assert "run r1 of Shop: its task was cancelled in the middle of step 'pay'" in torn.getMessage()
    assert "run r1 of Shop ended early: its task was cancelled, as asyncio.run does" in lost.getMessage()
    assert all("softstop.run(main)" in record.getMessage() for record in caplog.records)


async def test_a_step_that_a_native_timeout_of_the_body_tears_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def body(run: RunContext, message: object) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):  # noqa: TID251 - what tears it
                await slow(run, message)

    assert (await Agent(body).arun("x")).status is RunStatus.completed
    [record] = caplog.records
    assert "run.step(..., timeout=) cuts it in time, anyio.fail_after lets it end" in record.getMessage()


@pytest.mark.parametrize("end", ["a step's own timeout", "grace"])
async def test_a_step_that_softstop_cuts_is_not_told_as_torn(end: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body(run: RunContext, message: object) -> None:
        with suppress(TimeoutError):
            async with run.step("pay", timeout=3 if end == "a step's own timeout" else None):
                await anyio.sleep(1_000)

    async with Supervisor(policy=StopPolicy(grace=1)) as supervisor:
        run = supervisor.start(Agent(body))
        if end == "grace":
            await anyio.sleep(1)
            run.cancel()
        assert (await run.ended()).steps[0].status == "unsettled"
    assert caplog.records == []


async def test_a_log_that_fails_changes_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(record: logging.LogRecord) -> bool:
        raise OSError("disk full")

    logger = logging.getLogger("softstop")
    monkeypatch.setattr(logger, "filters", [full])
    async with Supervisor(max_running=1) as supervisor:
        assert (await supervisor.start(Agent(fails))).status.value == "failed"
        assert (await supervisor.start(Agent(quiet))).status.value == "completed"


def test_runs_that_an_exploration_lets_fail_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    report = stop_everywhere(lambda supervisor: supervisor.start(Agent(fails)))
    assert report.outcomes[RunStatus.failed]
    assert caplog.records == []
