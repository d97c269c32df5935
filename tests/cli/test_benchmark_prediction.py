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
    path = tmp_path / "prediction.json"
    rows = {row["label"]: row for row in json.loads(path.read_text())["rows"]}
    assert list(rows) == [
        "Predictor",
        "transformers pipeline, batch size 1 (default)",
        "transformers pipeline, batch size 8",
    ]
    ours = rows.pop("Predictor")
    assert (ours["times_faster"], ours["difference"]) == (1, 0)
    for row in rows.values():
        # The pipeline pads less: the last pooling window of a text mixes with padding differently.
        assert 0 <= row["difference"] < 0.01
        assert row["lines"] == 2 * 60
        assert row["lines_per_second"] == pytest.approx(statistics.median(row["rates"]))
        ratios = [a / b for a, b in zip(ours["rates"], row["rates"], strict=True)]
        assert row["times_faster"] == pytest.approx(statistics.median(ratios))
    assert invoke(prediction, ["--lines=3"]) == 2
    assert invoke(prediction, ["--batch_size", "8", "0"]) == 2


def test_program_and_its_memory(tmp_path, monkeypatch):
    import prediction

    monkeypatch.setattr(sys, "argv", ["prediction.py", "--quick"])
    args = prediction.parse_arguments()
    vocabulary = prediction.corpora.write_vocabulary(None, 400, tmp_path / "vocab.txt")
    prediction.save_model("tiny", vocabulary, tmp_path / "model")
    lines = prediction.make_lines(None, 20, 12)
    row = prediction.run_program(tmp_path / "model", lines, tmp_path, args)
    assert row["lines"] == 20
    assert row["lines_per_second"] == pytest.approx(20 / row["seconds"])
    assert row["peak_mib"] is None or 20 < row["peak_mib"] < 2000
