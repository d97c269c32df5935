"""The benchmark measures three models on every shape and writes what it printed."""

import json
import subprocess
import sys

import pytest

import house


@pytest.fixture
def run_benchmark():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")

    def run(*arguments):
        command = [sys.executable, str(house.ROOT / "benchmarks" / "forward.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_table_and_json(run_benchmark, tmp_path):
    output = tmp_path / "forward.json"
    done = run_benchmark("--size=tiny", "--shapes=1x16,2x9", "--repeats=1", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "| 1 x 16 |" in done.stdout and "| 2 x 9 |" in done.stdout
    seconds = json.loads(output.read_text())["seconds"]
    assert list(seconds) == ["1x16", "2x9"]
    for times in seconds.values():
        assert len(times) == 3 and all(value > 0 for value in times.values())
        assert times["ours"] < times["BERT-base, SDPA"]  # a thousandth of its size


def test_a_wrong_shape_is_one_line(run_benchmark):
    done = run_benchmark("--shapes=8-128")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --shapes=8-128") and done.stderr.count("\n") == 1
