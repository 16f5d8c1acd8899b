"""`python -m tests.stress`: play random programs for minutes, replay one, close loops under runs, soak."""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import warnings

from .closing import Closing
from .fuzzing import Ground, fuzz
from .soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; 60 by default")
    parser.add_argument("--from", type=int, dest="first", help="the first seed; a random one by default")
    parser.add_argument("--seed", type=int, help="play this one program, again and again")
    parser.add_argument("--times", type=int, default=200, help="how often a single program is played")
    parser.add_argument("--without", default="", help="numbers of actions and deeds that are left out")
    parser.add_argument("--findings", type=int, default=1, help="violations after which to end")
    parser.add_argument("--side-by-side", type=int, default=12)
    parser.add_argument("--closing", action="store_true", help="loops that close under live runs, instead of programs")
    parser.add_argument("--soak", action="store_true", help="both in turn; memory, threads and handles must stay flat")
    parser.add_argument("--serve", type=int, nargs="?", const=10_000, help="10,000 runs over HTTP, or so many; alike")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--eager", action="store_true", help="asyncio.eager_task_factory, from 3.12 on")
    parser.add_argument("--debug", action="store_true", help="asyncio's debug mode")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of tasks that are left in the lurch on purpose
    logging.getLogger("softstop").disabled = True  # so are runs
    if given.serve:
        from .serving import serve  # noqa: PLC0415

        return _told(serve(given.serve, print))
    ground = Ground(given.loop, given.eager, given.debug)
    first = random.SystemRandom().randrange(10**9) if given.first is None else given.first
    if given.seed is None:
        print(f"from seed {first}", flush=True)
    if given.soak or given.closing:
        return _told(soak(given.seconds, first, print) if given.soak else _close(first, given.seconds))
    seeds = itertools.count(first) if given.seed is None else itertools.repeat(given.seed, given.times)
    without = frozenset(map(int, given.without.split(","))) if given.without else frozenset()
    report = fuzz(
        seeds, ground, seconds=given.seconds, findings=given.findings, without=without, side_by_side=given.side_by_side
    )
    for finding in report.findings:
        print(f"\n{finding}")
    print(report)
    return 1 if report.findings else 0


def _close(seed: int, seconds: float) -> list[str]:
    closing = Closing(seed, most=10**9)
    closing.play(seconds)
    print(closing)
    return closing.problems


def _told(problems: list[str]) -> int:
    for problem in problems[:20]:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
