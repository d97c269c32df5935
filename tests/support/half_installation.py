"""Run Python as if a package were not installed, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

_BLOCKER = '''"""Makes the packages named in BLOCKED_PACKAGES impossible to import."""
import os
import sys


class _Blocker:
    blocked = frozenset(os.environ["BLOCKED_PACKAGES"].split())

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
        return None


sys.meta_path.insert(0, _Blocker())
'''


def run_without(
    blocked: Iterable[str], arguments: list[str], import_from: Iterable[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` in an empty directory; ``import blocked`` fails there.

    The blocker is a ``sitecustomize`` module, so it also works for programs and in processes that
    the program starts itself.
    """
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "sitecustomize.py").write_text(_BLOCKER)
        environment = {
            **os.environ,
            "BLOCKED_PACKAGES": " ".join(blocked),
            "PYTHONPATH": os.pathsep.join([empty, *map(str, import_from)]),
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
