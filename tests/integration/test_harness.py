"""The suite's own rules, in a pytest of their own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SWALLOWS_ITS_TIMEOUT = """
import pytest
from softstop import Agent, Supervisor

async def busy(run, message):
    while True:
        pass

@pytest.mark.timeout(2)
async def test_a_body_holds_the_loop():
    async with Supervisor() as supervisor:
        output = await supervisor.start(Agent(busy)).ended()
    assert output.errors

async def test_the_next_one_is_not_blamed():
    pass
"""


def test_a_timeout_that_a_body_takes_for_its_own_failure_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_swallows.py").write_text(SWALLOWS_ITS_TIMEOUT)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "conftest"]
    options += ["-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])},
        timeout=110,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "its timeout struck in code that took the exception for a failure of its own" in done.stdout
