"""Makes this repository's packages importable from a clone, for the benchmarks."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

# The benchmarks' own folder comes first, also in child processes: other folders have a _paths too.
_ROOMS = ("benchmarks", "pytorch", "tensorflow", "common")
sys.path[:0] = [str(_ROOT / room) for room in _ROOMS]
