"""Adds up what was explored and says so at the end of the test run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from softstop.testing import Report

CountReport = Callable[[Report], None]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> CountReport:
    """Have a report counted in the summary of the test run."""
    return lambda report: record_property("schedules", report.schedules)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    walked, broken = 0, 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if "tests/explore" in report.nodeid and report.when == "call":
                walked += sum(int(str(value)) for name, value in report.user_properties if name == "schedules")
                broken += outcome == "failed"
    if walked or broken:
        terminalreporter.section("explored")
        terminalreporter.line(f"{walked:,} schedules, {broken} violations")
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "mutant":
                terminalreporter.line(str(value))
