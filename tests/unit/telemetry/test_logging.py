"""What is logged: nothing unless structlog is configured, then two INFO lines a run, and never a word of content."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import structlog

from kit.lawless import secretive
from kit.runs import now
from softstop import Agent, Limits, RunContext, StopPolicy, Supervisor, Usage
from softstop.testing import run_virtual

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


async def test_a_library_is_silent_unless_the_application_has_configured_structlog(
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
