"""Every example keeps the promise of its docstring, is short, and uses nothing but public names."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PUBLIC_MODULES = {"softstop", "softstop.models", "softstop.server", "softstop.testing"}
LONGEST = 60  # lines of code; docstring, imports and blank lines not counted
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECONDS = re.compile(r"\b\d+\.\d+ s\b")

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


def docstring_of(example: Path) -> str:
    return ast.get_docstring(ast.parse(example.read_text("utf-8"))) or ""


def normalised(text: str) -> list[str]:
    text = SECONDS.sub("<t> s", UUID.sub("<id>", text))
    return [line.rstrip() for line in text.strip().splitlines()]


def offline() -> dict[str, str]:
    """An environment without keys, in which every connection that leaves the machine fails."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    return {**kept, **nowhere, "NO_PROXY": "127.0.0.1,localhost", "PYTHONPATH": str(ROOT / "src")}


@every_example
def test_an_example_prints_what_its_docstring_promises(example: Path, tmp_path: Path) -> None:
    _, _, promised = docstring_of(example).partition("Prints:\n")
    assert promised, "the docstring of an example ends with `Prints:` and what it prints"

    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path, env=offline(), capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip

    said = [line for line in done.stderr.splitlines() if not line.startswith("no keys are asked for: ")]
    assert (done.returncode, said) == (0, [])
    assert normalised(done.stdout) == normalised(dedent(promised))


@pytest.mark.parametrize("example", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.stem)
def test_an_example_uses_only_public_names(example: Path) -> None:
    tree = ast.parse(example.read_text("utf-8"))
    private = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
    ]
    assert private == []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(name.name in PUBLIC_MODULES for name in node.names if name.name.startswith("softstop"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("softstop"):
            assert node.module in PUBLIC_MODULES
            module = import_module(node.module)
            public = [getattr(module, name.name) for name in node.names if not name.name.startswith("_")]
            assert len(public) == len(node.names)
            assert not any(type(value).__name__ == "module" for value in public)


@every_example
def test_an_example_fits_on_a_screen(example: Path) -> None:
    tree = ast.parse(example.read_text("utf-8"))
    lines = example.read_text("utf-8").splitlines()
    told = {
        number
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom) or node is tree.body[0]
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = [line for number, line in enumerate(lines, 1) if number not in told and line.strip()]
    assert len(code) <= LONGEST
