"""Runs what the README shows and compares what it prints. Needs nothing but the standard library and softstop.

Blocks that await run one after the other as in the REPL of `python -m asyncio`, the others as plain programs; all of
them share their names. With `--core`, they end before the first one that needs an extra.
"""

from __future__ import annotations

import ast
import asyncio
import difflib
import inspect
import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

README = Path(__file__).resolve().parents[2] / "README.md"
FENCED = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<printed>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    """One Python block and the output that the README shows below it."""

    line: int
    code: str
    printed: str


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a Markdown text, in their order."""
    for found in FENCED.finditer(text):
        yield Block(text.count("\n", 0, found.start("code")), found["code"], found["printed"] or "")


async def _evaluate(code: Any, names: dict[str, Any]) -> None:
    await eval(code, names)


def run(block: Block, names: dict[str, Any], runner: asyncio.Runner) -> str:
    """Execute one block; returns what it printed."""
    source = "\n" * block.line + block.code  # so that a traceback tells the line of the README
    code = compile(source, README.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with redirect_stdout(io.StringIO()) as printed:
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(_evaluate(code, names))
        else:
            exec(code, names)
    return printed.getvalue()


def main(*, core: bool) -> int:
    """Run all blocks; prints a difference for each that does not keep its promise and returns how many they are."""
    names: dict[str, Any] = {"__name__": "__main__"}
    broken = 0
    with asyncio.Runner() as runner:
        for block in blocks(README.read_text("utf-8")):
            if core and "softstop.models" in block.code:
                break
            shown, printed = block.printed.splitlines(), run(block, names, runner).splitlines()
            if [line.rstrip() for line in printed] != shown:
                broken += 1
                print(f"README.md:{block.line + 1}: this block does not print what the README shows")
                print("\n".join(difflib.unified_diff(shown, printed, "README", "printed", lineterm="")))
    return broken


if __name__ == "__main__":
    sys.exit(main(core="--core" in sys.argv))
