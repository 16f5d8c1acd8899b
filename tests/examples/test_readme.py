"""The README and the guides say what is so: their code runs, their links lead somewhere, their commands are CI's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest

ROOT = pages.ROOT
TEXT = pages.README.read_text("utf-8")
CI = (ROOT / ".ci" / "run").read_text("utf-8")

every_page = pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)


def links_of(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def commands_of(text: str) -> list[str]:
    return [
        line
        for fenced in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in fenced.splitlines()
    ]


@every_page
def test_every_python_block_of_a_page_runs_and_prints_what_the_page_shows(page: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", pages.__file__, str(page)],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""}, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    if done.stdout:  # all that the extra `dev` does not bring
        pytest.skip(done.stdout)


@every_page
def test_every_python_block_of_a_page_names_its_file(page: Path) -> None:
    text = page.read_text("utf-8")
    found = list(pages.blocks(text))

    assert text.count("```python") == len(found)
    assert len({block.name for block in found}) == len(found)


@every_page
def test_every_link_of_a_page_leads_to_a_file_of_the_tree(page: Path) -> None:
    links = [link for link in links_of(page.read_text("utf-8")) if "://" not in link]

    assert [link for link in links if not (page.parent / link.partition("#")[0]).exists()] == []


def test_the_readme_fits_into_250_lines_and_leads_to_every_guide() -> None:
    assert len(TEXT.splitlines()) < 250
    assert {ROOT / link.partition("#")[0] for link in links_of(TEXT) if "guides/" in link} == set(pages.PAGES[1:])


def test_the_first_example_is_short_runs_without_an_extra_and_ends_by_line_35() -> None:
    first = next(pages.blocks(TEXT))

    assert first.printed
    assert "softstop.models" not in first.code
    assert first.line + len(first.code.splitlines()) <= 35
    assert len([line for line in first.code.splitlines() if line]) <= 18


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    in_ci = re.findall(r'^(?:MAIN_JOB|TESTS)="(.*)"$', CI, re.MULTILINE)

    assert len(in_ci) == 2
    assert commands_of(TEXT) == in_ci


def test_each_guarantee_links_to_the_tests_that_prove_it() -> None:
    page = pages.GUIDES / "guarantees.md"
    guarantees = page.read_text("utf-8")
    linked = {(page.parent / link).resolve() for link in links_of(guarantees) if "/law/test_t" in link}
    there = set((ROOT / "tests/law").glob("test_t*.py"))

    assert linked == there
    assert [int(number) for number in re.findall(r"^(\d+)\. ", guarantees, re.MULTILINE)] == list(range(1, 23))


def test_the_changelog_says_why_each_dependency_is_there() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    declared = set(re.findall(r'"([a-z0-9_.-]+)(?:\[[a-z,]+\])?>=', pyproject)) - {"hatchling"}

    assert {name for name in declared if f"`{name}" not in changelog} == set()


def test_the_changelog_names_every_public_name() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    public = re.findall(
        r"^from \.\S+ import \w+ as (\w+)$", (ROOT / "src/softstop/__init__.py").read_text("utf-8"), re.MULTILINE
    )

    assert public
    assert [name for name in public if not re.search(rf"\b{name}\b", changelog)] == []
