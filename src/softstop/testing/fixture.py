"""A pytest fixture, `stops`, for tests that an agent can be stopped. The one module of the kit that needs pytest.

In `conftest.py`:

    pytest_plugins = ["softstop.testing.fixture"]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final, Protocol, Unpack

import pytest

from softstop.runs.run import Run
from softstop.supervisor.supervisor import Supervisor

from . import Exploration, Report, stop_everywhere

QUIET: Final = 2.0  # seconds after which a bar is shown
WIDTH: Final = 30  # of the bar, in characters


class Stops(Protocol):
    """What the fixture gives: `stop_everywhere`, with defaults of its own."""

    def __call__(self, make_run: Callable[[Supervisor], Run], **options: Unpack[Exploration]) -> Report:
        """Run the scenario once for every point at which a stop can land, times every cause."""
        ...


@pytest.fixture
def stops(pytestconfig: pytest.Config) -> Stops:
    """`stop_everywhere` with `strict=True`, and a bar on the terminal after two seconds.

        def test_my_agent_can_be_stopped(stops):
            stops(lambda supervisor: supervisor.start(my_agent, "hello"), effects=BOOK)

    It prints its report, which pytest shows if the test fails, or with `-rP`.
    """

    def stops(make_run: Callable[[Supervisor], Run], **options: Unpack[Exploration]) -> Report:
        __tracebackhide__ = True
        bar = _Bar(pytestconfig.pluginmanager)
        asked: Exploration = {"strict": True, "progress": bar.show, **options}
        try:
            report = stop_everywhere(make_run, **asked)
        finally:
            bar.clear()
        print(report)  # noqa: T201 - for pytest, which captures it
        return report

    return stops


class _Bar:
    """How far an exploration has come, in the last line of the terminal; nothing where there is none."""

    def __init__(self, plugins: pytest.PytestPluginManager) -> None:
        self._since, self._shown = time.monotonic(), ""
        self._reporter: Any = plugins.get_plugin("terminalreporter")
        self._capture: Any = plugins.get_plugin("capturemanager")

    def show(self, played: int, of: int) -> None:
        """Write how many schedules of all were played."""
        if time.monotonic() - self._since > QUIET:
            done = "#" * (WIDTH * played // of)
            self._write(f"[{done:<{WIDTH}}] {100 * played // of} % of {of:,} schedules")

    def clear(self) -> None:
        """Wipe it out."""
        if self._shown:
            self._write(" " * len(self._shown))
            self._write("")

    def _write(self, line: str) -> None:
        if line == self._shown or self._reporter is None or not self._reporter.hasmarkup:
            return
        self._shown = line
        with nullcontext() if self._capture is None else self._capture.global_and_fixture_disabled():
            self._reporter.write(f"\r{line}", flush=True)
