"""Makes this repository's packages importable from a clone, for the benchmarks."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

sys.path[:0] = [str(REPOSITORY / room) for room in ("pytorch", "common")]
