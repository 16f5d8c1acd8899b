"""Says at the end of a test run what was explored; called by `tests/conftest.py`, which xdist's controller loads."""

from __future__ import annotations

import pytest

from .scale import FIRST_SEED


def tell_explored(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up what the tests have counted, and list the planted bugs that were found."""
    total = {"schedules": 0, "stories": 0}
    broken, mutants = 0, list[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call" and "tests/explore" in report.nodeid:
                broken += outcome == "failed"
                for name, value in report.user_properties:
                    if name in total:
                        total[name] += int(str(value))
                    elif name == "mutant":
                        mutants.append(str(value))
    if total["schedules"] or broken or mutants:
        terminalreporter.section("explored")
        walked = f"{total['schedules']:,} schedules from seed {FIRST_SEED}, {total['stories']:,} different stories"
        told = f"{walked}, {broken} violations"
        for line in (told, *mutants):
            terminalreporter.line(line)
