"""How the numbers are shown: a table for the terminal, a shorter one for the guide on performance. Measures nothing."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from .measuring import Row

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
REACHED = {True: "yes", False: "NO", None: ""}


def number(value: float, unit: str) -> str:
    if unit in ("left", "objects", "calls", "bytes"):
        text = f"{value:,.0f}"
    elif value and abs(value) < 1:
        text = f"{value:.2f}"
    else:
        text = f"{value:.1f}" if value < 100 else f"{value:,.0f}"
        text = f"{value:.2f}" if unit == "x" and value < 10 else text
    return text if unit in ("left", "objects", "calls") else f"{text}{'' if unit in ('x', '%') else ' '}{unit}"


def goal(row: Row) -> str:
    return "" if row.goal is None else f"{'>=' if row.at_least else '<='} {number(row.goal, row.unit)}"


def heading(empty_loop: Sequence[float]) -> str:
    turns = f"{min(empty_loop):.1f} to {max(empty_loop):.1f} ns"
    return f"Python {platform.python_version()}, an empty loop turn takes {turns} (10.5 where the goals were set)"


def table(rows: Sequence[Row], loops: Sequence[float], *, judged: bool) -> str:
    """One line a number; `loop` is the calibration taken right before its group; `--quick` is not judged."""
    head = ("goal", "what", "measured", "asked", "reached", "loop ns", "")
    lines = [
        (
            row.number, row.what, number(row.measured, row.unit), goal(row),
            REACHED[row.reached if judged else None], f"{loop:.1f}", row.note,
        )
        for row, loop in zip(rows, loops, strict=True)
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    ]
    asked = [row.reached for row in rows if row.goal is not None]
    total = f"{sum(map(bool, asked))} of {len(asked)} reached"
    if not judged:
        total = f"{len(asked)} goals measured, none judged: the numbers of --quick mean nothing"
    return "\n".join([heading(loops), *shown, total])


def markdown(rows: Sequence[Row], loops: Sequence[float]) -> str:
    lines = [
        f"| {row.what} | {number(row.measured, row.unit)} | {goal(row)}{' (missed)' if row.reached is False else ''} |"
        for row in rows
    ]
    caption = (
        "Medians of interleaved repeats in one process, CPU time, by `python -m tests.benchmarks`; ratios carry over "
        "to other machines, microseconds do not.\n" + heading(loops) + ".\n"
    )
    return "\n".join([caption, "| what | measured | goal |", "|---|---|---|", *lines])


def write_into(path: Path, text: str) -> None:
    """Replace what stands between the two marks."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
