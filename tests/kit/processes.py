"""Programs that run as processes of their own: what they say, and how they end. Proves nothing itself."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"
PROMPT = 25.0  # seconds: less than a grace, and enough for a start and an end on a busy machine
PRELUDE = """
import asyncio, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
import softstop
from softstop import Agent, Budget, Limits, RunStatus, StopPolicy, Supervisor, Usage

def say(*words):
    print(*words, flush=True)

async def waits(run, message):
    say("begun")
    run.write("begun")
    try:
        await asyncio.sleep(1_000)
    finally:
        say("interrupted")

async def pays(run, message):
    async with run.step("pay"):
        await asyncio.sleep(0.2)  # by now the calling thread waits; an interrupt before that is another test's matter
        say("begun")
        await run.stop_requested()
        await asyncio.sleep(0.1)
        say("committed")
    async with run.step("refused"):
        say("must not begin")
"""


@contextmanager
def script(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs the code; killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"{word!r} was never said: {process.stderr.read() if process.stderr else ''}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, what it has said since `wait_for`, and its errors. It ends by itself, and waits for no grace."""
    code = process.wait(PROMPT)
    assert process.stdout is not None
    assert process.stderr is not None
    return code, process.stdout.read(), process.stderr.read()  # not `communicate`: it loses what is buffered
