"""Has what was explored counted for the summary, which `summary` prints; and has one schedule tell one story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from softstop.testing import Report

CountReport = Callable[[Report], None]


def _number_of_its_task(scope: Any) -> int:
    return object.__hash__(scope) if scope._host_task is None else hash(scope._host_task)


# anyio cancels the scopes below a scope in the order of a set, by address: by their tasks it is the same in each play
anyio.CancelScope.__hash__ = _number_of_its_task  # type: ignore[method-assign]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> CountReport:
    """Have a report counted in the summary of the test run."""

    def counted(report: Report) -> None:
        record_property("schedules", report.schedules)
        record_property("stories", len(report.stories))

    return counted
