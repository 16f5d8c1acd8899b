"""The benchmarks run and tell of every goal that needs no other library; what they measure is no test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOALS = {"1", "2", *map(str, range(4, 23)), "+"}


@pytest.mark.timeout(300)
def test_the_benchmarks_run_and_their_table_has_every_goal(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- benchmarks -->\nstale\n<!-- /benchmarks -->\nbelow\n", "utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--write", str(page)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    _, _, *lines, total = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == GOALS
    assert total.startswith(f"{sum(' >= ' in line or ' <= ' in line for line in lines)} goals measured, none judged")
    assert not any(" yes " in line or " NO " in line for line in lines)
    text = page.read_text("utf-8")
    assert text.count("\n| ") == len(lines) + 1
    assert (text.startswith("above\n"), text.endswith("below\n"), "stale" in text) == (True, True, False)
