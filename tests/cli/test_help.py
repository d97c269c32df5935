"""``--help`` of every program answers at once: nothing large is imported before it."""

import subprocess
import sys

import pytest

import repo_layout

PROGRAMS = sorted(
    path for path in repo_layout.programs() if path.parent.name in ("pytorch", "tensorflow")
)
_CODE = """
import runpy, sys
program = sys.argv[1]
sys.argv = [program, "--help"]
sys.path.insert(0, program.rpartition("/")[0])
try:
    runpy.run_path(program, run_name="__main__")
finally:
    print(sorted({"torch", "numpy", "tensorflow", "sklearn"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=repo_layout.name)
def test_help_imports_no_framework(program):
    command = [sys.executable, "-c", _CODE, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "\n  --" in done.stdout
