"""Put the packages on ``sys.path``, so that programs run from a clone without installation."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

for _root in (_HERE, _HERE.parent / "common"):
    if str(_root) not in sys.path:
        sys.path.insert(0, str(_root))
