"""The README says what is so: its code runs, its links lead somewhere, its commands are those of CI."""

from __future__ import annotations

import re
import subprocess
import sys

import readme

ROOT = readme.README.parent
TEXT = readme.README.read_text("utf-8")
CI = (ROOT / ".ci" / "run").read_text("utf-8")


def links_of(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def commands_of(text: str) -> list[str]:
    return [
        line
        for fenced in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in fenced.splitlines()
    ]


def test_every_python_block_prints_what_the_readme_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", readme.__file__],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""}, capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_first_example_is_short_runs_without_an_extra_and_ends_by_line_30() -> None:
    first = next(readme.blocks(TEXT))

    assert first.printed
    assert "softstop.models" not in first.code
    assert first.line + len(first.code.splitlines()) <= 30
    assert len([line for line in first.code.splitlines() if line]) <= 15


def test_every_python_block_is_run() -> None:
    assert TEXT.count("```python") == len(list(readme.blocks(TEXT)))


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    in_ci = re.findall(r'^(?:MAIN_JOB|TESTS)="(.*)"$', CI, re.MULTILINE)

    assert len(in_ci) == 2
    assert commands_of(TEXT) == in_ci


def test_every_link_leads_to_a_file_of_the_tree() -> None:
    missing = [link for link in links_of(TEXT) if "://" not in link and not (ROOT / link.partition("#")[0]).exists()]

    assert missing == []


def test_each_guarantee_links_to_the_tests_that_prove_it() -> None:
    guarantees = TEXT.partition("## Guarantees")[2].partition("\n## ")[0]
    linked = {link for link in links_of(guarantees) if link.startswith("tests/law/")}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/law").glob("test_t*.py")}

    assert linked == there
    assert [int(number) for number in re.findall(r"^(\d+)\. ", guarantees, re.MULTILINE)] == list(range(1, 22))


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
