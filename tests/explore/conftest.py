"""Has what was explored counted for the summary, which `summary` prints."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from softstop.testing import Report

CountReport = Callable[[Report], None]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> CountReport:
    """Have a report counted in the summary of the test run."""

    def counted(report: Report) -> None:
        record_property("schedules", report.schedules)
        record_property("stories", len(report.stories))

    return counted
