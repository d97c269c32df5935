"""Lets the programs of this folder run from a clone: finds the packages that are not installed."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

for _root in (_HERE, _HERE.parent / "common"):
    if str(_root) not in sys.path:
        sys.path.insert(0, str(_root))
