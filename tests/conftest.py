"""Loops and checks of all tests: core tests run in virtual time and leave nothing behind; integration tests do not."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from blockbuster import BlockBuster
from explore.summary import tell_explored
from hypothesis import HealthCheck, settings

import softstop
import softstop.testing
from softstop.supervisor.registry import registry
from softstop.testing import VirtualLoop

pytest.register_assert_rewrite("kit")
# a machine that is busy with other things draws slowly, which proves nothing
of_the_place = settings.get_profile(settings.get_current_profile_name())
settings.register_profile("busy", of_the_place, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

HERE = Path(__file__).parent
# rules about models, where the extra is not installed, as with the oldest anyio
OF_MODELS = ["law/test_t16b_a_limit_holds_while_a_stream_runs.py", "law/test_t21_what_was_not_seen_to_end.py"]
collect_ignore = [] if find_spec("pydantic_ai") else OF_MODELS
VIRTUAL = (HERE / "law", HERE / "unit", HERE / "explore")
SETTLE_TURNS = 20
WAITS = ("time.", "socket.", "ssl.", "sqlite3.", "threading.", "builtins.")
TIMED_OUT = pytest.StashKey[bool]()
BEGAN = time.monotonic()
LONG = 300.0  # seconds of a whole run beyond which it tells what took longest
_loops: list[VirtualLoop] = []  # the loop of the test that runs


def _is_virtual(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in VIRTUAL)


def _virtual_loop() -> VirtualLoop:
    loop = VirtualLoop(patience=5)  # of a busy machine with its threads
    _loops[:] = [loop]
    return loop


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "leaves_tasks: this test proves that a task stays behind; it is not a leak of the test"
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what to expect of the README's second command; the percents beside the dots say how far it is."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return ["all tests: about 4 minutes with -n 4 on two free cores, 10 where they are busy"] if whole else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was explored, and which tests took longest if all of them took longer than they should."""
    tell_explored(terminalreporter)
    took = time.monotonic() - BEGAN
    if took < LONG:
        return
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    longest = sorted(reports, key=lambda report: -report.duration)[:20]
    terminalreporter.section(f"{took:.0f} s, longest of all")
    for report in longest:
        terminalreporter.line(f"{report.duration:6.1f} s {report.when:<8} {report.nodeid}")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": _virtual_loop} if _is_virtual(item.path) else {"real": asyncio.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An id with an address in it is another one in each worker of xdist, which then runs nothing at all."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"give this parameter an id that is the same in every process: {unstable[0]}")
    items[:] = _spread(items)
    gc.freeze()  # modules and tests stay to the end: what walks them on each full collection finds nothing


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The explorer's tests, which are long, between the files of the others: xdist hands out stretches of the list."""
    long: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        (long if item.get_closest_marker("explore") else others).append(item)
    files = [list(group) for _, group in groupby(others, lambda item: item.path)]
    spread: list[pytest.Item] = []
    for number, file in enumerate(files):
        spread += long[number * len(long) // len(files) : (number + 1) * len(long) // len(files)]
        spread += file
    return spread if files else items


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that needs a real server has one: skipping it there would only look green."""
    report = yield
    if (
        report.skipped
        and os.environ.get("CI")
        and item.get_closest_marker("server")
        and not hasattr(report, "wasxfail")
    ):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Note an alarm of pytest-timeout, and let it come again: where it strikes in a body, the run takes it."""
    result = yield
    if settings.method == "signal" and callable(alarm := signal.getsignal(signal.SIGALRM)):

        def note(number: int, frame: FrameType | None) -> object:
            item.stash[TIMED_OUT] = True
            signal.setitimer(signal.ITIMER_REAL, settings.timeout)
            return alarm(number, frame)

        signal.signal(signal.SIGALRM, note)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """After a test that passed, no alarm may have been swallowed; after a core test, no task, run or timer be left."""
    try:
        result = yield
        if TIMED_OUT in item.stash:
            pytest.fail("its timeout struck in code that took the exception for a failure of its own", pytrace=False)
        if _is_virtual(item.path):
            _assert_nothing_is_left(leaves_tasks=item.get_closest_marker("leaves_tasks") is not None)
        return result
    finally:
        registry._runs.clear()
        _loops.clear()


def _assert_nothing_is_left(*, leaves_tasks: bool) -> None:
    assert not registry._runs, f"live runs are left: {list(registry._runs.values())}"
    for loop in _loops:
        if leaves_tasks or loop.is_closed():
            continue
        loop.run_until_complete(_settle())
        tasks = asyncio.all_tasks(loop)
        assert not tasks, f"tasks are left: {tasks}"
        timers = [timer for timer in loop.timers() if type(timer._callback).__name__ != "Later"]  # see kit.runs.at
        assert not timers, f"timers are left: {timers}"


async def _settle() -> None:
    """Tasks whose work is done get the turns they need to end."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    """Finds calls from under our code that wait; files are left out, since a late import reads some."""
    buster = BlockBuster(softstop, excluded_modules=[softstop.testing])
    buster.functions = {name: found for name, found in buster.functions.items() if name.startswith(WAITS)}
    # a test may hold the loop on purpose, to let a thread ask meanwhile
    buster.functions["threading.Lock.acquire"].can_block_in("threading.py", {"join", "_wait_for_tstate_lock"})
    return buster


@pytest.fixture(autouse=True)
def _nothing_of_ours_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    if not _is_virtual(request.path):
        yield
        return
    buster: BlockBuster = request.getfixturevalue("_blockbuster")
    buster.activate()
    yield
    buster.deactivate()
