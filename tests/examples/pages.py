"""Runs what the README and the guides show and compares what it prints. Needs the standard library and softstop alone.

Each Python block of a page is a file, named in its first line, in one directory for the page, and is run as
`python name.py`, a `test_*.py` as `pytest name.py`. With `--core`, blocks that need an extra are left out.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import io
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDES = ROOT / "examples" / "guides"
PAGES = [README, *sorted(GUIDES.glob("*.md"))]
EXTRAS = ("softstop.models", "softstop.server")  # modules that need one
FENCED = re.compile(
    r"^```python\n(?P<code># (?P<name>\w+\.py)\b.*?)^```\n(?:\s*^```text\n(?P<printed>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """One Python block, the name of its file, and the output that the page shows below it."""

    line: int
    name: str
    code: str
    printed: str

    @property
    def imports(self) -> set[str]:
        """The modules that it imports, by their whole names."""
        nodes = list(ast.walk(ast.parse(self.code)))
        named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        return named | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a Markdown text, in their order."""
    for found in FENCED.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(line, found["name"], found["code"], found["printed"] or "")


def missing(block: Block, files: dict[str, Block], *, core: bool) -> str | None:
    """A module that the block, or a block that it imports from, needs and that is not there."""
    for name in sorted(block.imports | ({"pytest"} if block.name.startswith("test_") else set())):
        if name in files:
            lacks = missing(files[name], files, core=core)
        elif core and name in EXTRAS:
            return name
        else:
            lacks = None if importlib.util.find_spec(name.partition(".")[0]) else name
        if lacks:
            return lacks
    return None


def run(block: Block) -> str:
    """Execute the file of one block in the current directory; returns what it printed."""
    if block.name.startswith("test_"):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", block.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr
    with redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(block.name, run_name="__main__")
    return printed.getvalue()


def main(page: Path, *, core: bool) -> int:
    """Run the blocks of a page; prints a difference for each that breaks its promise; returns how many they are."""
    broken = 0
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        sys.path.insert(0, directory)
        files = {block.name.removesuffix(".py"): block for block in blocks(page.read_text("utf-8"))}
        for block in files.values():
            Path(block.name).write_text("\n" * block.line + block.code, "utf-8")  # a traceback tells the page's line
        for block in files.values():
            if name := missing(block, files, core=core):
                print(f"{page.name}:{block.line + 1}: left out, {name} is not installed")
                continue
            shown, printed = block.printed.splitlines(), run(block).splitlines()
            if [line.rstrip() for line in printed] != shown:
                broken += 1
                print(f"{page.name}:{block.line + 1}: this block does not print what the page shows")
                print("\n".join(difflib.unified_diff(shown, printed, page.name, "printed", lineterm="")))
        for name in files:  # other pages have other files of these names
            sys.modules.pop(name, None)
        sys.path.remove(directory)
        os.chdir(ROOT)
    return broken


if __name__ == "__main__":
    given = [Path(name).resolve() for name in sys.argv[1:] if not name.startswith("--")]
    sys.exit(sum(main(page, core="--core" in sys.argv) for page in given or PAGES))
