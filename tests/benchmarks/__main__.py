"""`python -m tests.benchmarks`: every goal that needs no other library, in one table. Measures nothing itself."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import crowds, estimates, frames, memory, models, runs, serving, stops, stores, streams, values
from .measuring import FULL, QUICK, Effort, Row, empty_loop_ns
from .report import markdown, table, write_into

PAGE = Path(__file__).resolve().parents[2] / "examples" / "guides" / "performance.md"
GROUPS: dict[str, Callable[[Effort], list[Row]]] = {
    "streams": streams.rows,
    "models": models.rows,
    "runs": runs.rows,
    "values": values.rows,
    "stops": stops.rows,
    "memory": memory.rows,
    "crowds": crowds.rows,
    "estimates": estimates.rows,
    "serving": serving.rows,
    "frames": frames.rows,
    "stores": stores.rows,
    "uvloop": lambda effort: [*streams.uvloop_rows(effort), *runs.uvloop_rows(effort)],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds; the numbers mean nothing and are not judged"
    )
    parser.add_argument("--only", nargs="*", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, metavar="PAGE", help="replace the table of the guide, or of PAGE"
    )
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    if options.quick:
        gc.freeze()  # or most of it were the collections before each sample, which walk all modules
    rows: list[Row] = []
    loops: list[float] = []
    begin = time.monotonic()
    for name in options.only or GROUPS:
        loop = empty_loop_ns(effort.count(1_000_000))
        found = GROUPS[name](effort)
        rows += found
        loops += [loop] * len(found)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(table(rows, loops, judged=not options.quick))
    if options.write is not None:
        write_into(options.write, markdown(rows, loops))


if __name__ == "__main__":
    main()
