"""``--seeds`` of the classifier: real runs, and the table of their scores."""

import json

import pytest

pytest.importorskip("torch")

import sys

from classifier_runs import PYTORCH, arguments, load_program, write_files

pytestmark = pytest.mark.slow


def test_two_seeds(tmp_path, monkeypatch, capsys):
    write_files(tmp_path, train=16)
    program = load_program("classifier")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    argv = arguments(tmp_path, seeds="1,2", seed=None, epochs=1)
    monkeypatch.setattr(sys, "argv", [str(PYTORCH / "classifier.py"), *argv])
    program.main()
    record = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert [run["name"] for run in record["runs"]] == ["seed=1", "seed=2"]
    for run in record["runs"]:
        own = json.loads((tmp_path / "run" / run["name"] / "best_result.json").read_text())
        assert run["scores"] == own["scores"] and run["metric"] == "matthews_corr"
        log = (tmp_path / "run" / f"{run['name']}.log").read_text()
        assert "final model = best model" in log
    (point,) = record["points"]
    assert point["runs"] == 2 and point["sd"] is not None
    assert "| cola | matthews_corr |" in capsys.readouterr().out
    # Both are finished: nothing is started again.
    before = (tmp_path / "run" / "seed=1.log").read_bytes()
    program.main()
    assert (tmp_path / "run" / "seed=1.log").read_bytes() == before
