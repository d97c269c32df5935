"""Put the packages of a clone on ``sys.path``, so that its programs run without installation."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

for _root in (_HERE, _HERE.parent / "common"):
    if str(_root) not in sys.path:
        sys.path.append(str(_root))
