"""The benchmark of prediction runs, and both predict the same."""

import json
import statistics
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import repo_layout
from classifier_runs import invoke

sys.path.append(str(repo_layout.ROOT / "benchmarks"))

pytestmark = pytest.mark.slow


def test_prediction(tmp_path, monkeypatch):
    import prediction

    monkeypatch.setenv("FUNNEL_TEST_DATA", str(tmp_path))
    assert invoke(prediction, ["--quick", f"--output_dir={tmp_path}"]) == 0
    ours, theirs = json.loads((tmp_path / "prediction.json").read_text())["rows"]
    assert (ours["label"], theirs["label"]) == ("Predictor", "transformers pipeline")
    # The pipeline pads less: the last pooling window of a text mixes with padding differently.
    assert 0 <= ours["difference"] < 0.01
    for row in (ours, theirs):
        assert row["lines_per_second"] == pytest.approx(120 / statistics.median(row["seconds"]))
    assert ours["times_faster"] == pytest.approx(theirs["seconds"][0] / ours["seconds"][0])
    assert invoke(prediction, ["--lines=3"]) == 2
