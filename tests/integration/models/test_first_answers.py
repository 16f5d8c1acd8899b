"""The first answer of a process does not hold the loop up while the provider's library builds what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kit.wire import PROTOCOLS

MOST = 0.15  # seconds of CPU that one callback may take; what is built takes a second, and a turn's work 10 ms
PROBE = """
import asyncio, gc, sys, threading, time
from asyncio.events import Handle
from kit.wire import Call, End, body, playing
from softstop import Agent

longest, run = 0.0, Handle._run

def timed(handle):
    global longest
    began = time.thread_time()
    run(handle)
    if threading.current_thread() is threading.main_thread():  # what is built elsewhere holds nobody up
        longest = max(longest, time.thread_time() - began)

def add(a: int) -> int:
    return a + 1

async def main():
    global longest
    protocol = sys.argv[1]
    answers = body(protocol, "Well. ", Call("add", '{"a": 1}'), End()), body(protocol, "Two.", End())
    async with playing(*answers) as wire:
        agent = Agent(model=wire.model(protocol), tools=[add])
        await asyncio.sleep(0)  # the import of the library is the caller's, who makes the agent
        await asyncio.sleep(0)
        longest = 0.0
        gc.disable()  # a full collection of what the libraries have made may take as long, wherever it strikes
        output = await agent.arun("go")
    print(output.content, round(longest, 3), sep="|")

Handle._run = timed
asyncio.run(main())
"""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_first_answer_of_a_process_does_not_block_its_loop(protocol: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, protocol], capture_output=True, text=True, check=True, timeout=110,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    content, longest = done.stdout.strip().split("|")
    assert content == "Well. Two."
    assert float(longest) < MOST
