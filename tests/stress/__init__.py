"""Random programs in real time; `python -m tests.stress` plays them for as long as it is told."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for the tests' kit, which pytest finds by itself
