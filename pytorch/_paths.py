"""Puts the packages of this clone first on ``sys.path``, so that programs run uninstalled."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

for _root in (_HERE, _HERE.parent / "common"):
    if str(_root) not in sys.path:
        sys.path.insert(0, str(_root))
