"""The run directory of the TensorFlow backend: ownership, checkpoints, retention, the best one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from funnel.config.model import ModelConfig
from funnel.formats.tensor_bundle import write_tf_checkpoint
from funnel.utils.errors import CheckpointError, RunError
from funnel.utils.logging import NullLog
from support_tf import import_tensorflow

import_tensorflow()

from funnel_tf.training import run_directory
from funnel_tf.training.evaluation import (
    BestCheckpoint,
    Retention,
    best_checkpoint,
    evaluate_all,
    write_best,
)
from funnel_tf.training.run_directory import (
    RunDirectory,
    latest_step,
    saved_steps,
    wait_for_steps,
)

CONFIG = ModelConfig(20, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32)


def _save(folder, *steps):
    for step in steps:
        write_tf_checkpoint(folder / f"model.ckpt-{step}", {"x": np.zeros(1, np.float32)})


def _begin(folder, overwrite=False, **settings):
    directory = RunDirectory(folder, {"lr": 1, "steps": (1, 2), **settings}, overwrite=overwrite)
    directory.create(CONFIG, {"seed": 7}, {"labels": ["a", "b"]})
    return directory


def test_a_directory_belongs_to_one_run(tmp_path):
    _begin(tmp_path)
    assert _begin(tmp_path, lr=2).step == 0  # nothing had begun
    _save(tmp_path, 3)
    again = _begin(tmp_path, lr=2)
    assert (again.step, again.seed) == (3, 7)
    with pytest.raises(RunError, match="holds another run .lr was 2, now 1"):
        _begin(tmp_path)
    again.finish(3, 3)
    with pytest.raises(RunError, match="finished"):
        _begin(tmp_path, lr=2)
    (tmp_path / "notes.txt").write_text("mine")
    fresh = _begin(tmp_path, overwrite=True)
    assert (fresh.step, fresh.seed) == (0, None) and latest_step(tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "run_config.json", "net_config.json", "labels.json"}


def test_foreign_checkpoints_are_left_alone(tmp_path):
    _save(tmp_path, 5)
    with pytest.raises(RunError, match="holds checkpoints but no run_config.json"):
        _begin(tmp_path)


def test_checkpoints_by_step(tmp_path):
    _save(tmp_path, 100, 20, 3)
    assert [saved.step for saved in saved_steps(tmp_path)] == [3, 20, 100]
    assert [saved.step for saved in saved_steps(tmp_path, after=3, upto=99)] == [20]
    with pytest.raises(CheckpointError, match="step above 100"):
        saved_steps(tmp_path, after=100)


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), [2, 4]),
        (Retention(best_only=True), [2]),
        (Retention(everything=True), [1, 2, 3, 4]),
    ],
)
def test_retention(tmp_path, retention, kept):
    _save(tmp_path, 1, 2, 3, 4)
    best = next(saved for saved in saved_steps(tmp_path) if saved.step == 2)
    retention.apply(tmp_path, best)
    assert [saved.step for saved in saved_steps(tmp_path)] == kept
    assert latest_step(tmp_path) == kept[-1]
    assert len(list(tmp_path.glob("*.data-*"))) == len(kept)


@pytest.mark.parametrize(
    ("values", "higher", "best"),
    [
        ([0.2, 0.5, 0.5], True, 2),
        ([0.2, 0.5, 0.1], False, 3),
        ([math.nan, 0.1, math.nan], True, 2),
        ([math.nan, math.nan, math.nan], True, 1),
    ],
)
def test_the_best_checkpoint(tmp_path, values, higher, best):
    _save(tmp_path, 1, 2, 3)
    scores = dict(zip((1, 2, 3), values, strict=True))

    def evaluate(prefix):
        value = scores[int(prefix.name.rpartition("-")[2])]
        return {"dev": {"accuracy": value, "loss": 1.0}, "test": {"accuracy": 0.0}}

    found = evaluate_all(saved_steps(tmp_path), evaluate, NullLog(), higher)
    assert found.saved.step == best
    write_best(found, tmp_path)
    result = json.loads((tmp_path / "best_result.json").read_text())
    assert (result["split"], result["metric"], result["step"]) == ("dev", "accuracy", best)
    assert best_checkpoint(tmp_path) == tmp_path / f"model.ckpt-{best}"


def test_best_checkpoint_elsewhere_or_gone(tmp_path):
    _save(tmp_path / "there", 1)
    (tmp_path / "here").mkdir()
    best = BestCheckpoint(saved_steps(tmp_path / "there")[0], {"dev": {"accuracy": 1.0}})
    write_best(best, tmp_path / "here")
    assert best_checkpoint(tmp_path / "here") == tmp_path / "there" / "model.ckpt-1"
    (tmp_path / "there" / "model.ckpt-1.index").unlink()
    with pytest.raises(CheckpointError, match="model.ckpt-1, is missing"):
        best_checkpoint(tmp_path / "here")
    assert best_checkpoint(tmp_path / "there") is None


def test_best_checkpoint_of_the_original(tmp_path, monkeypatch):
    """The original's ``path`` is relative to a working directory, which may be another one now."""
    run = tmp_path / "exp" / "rte"
    _save(run, 1, 2)
    record = {"path": "exp/rte/model.ckpt-1", "accu": 0.7}
    (run / "best_result.json").write_text(json.dumps(record))
    assert best_checkpoint(run) == run / "model.ckpt-1"
    monkeypatch.chdir(tmp_path)
    assert best_checkpoint(run) == Path("exp/rte/model.ckpt-1")
    for content, message in (({"path": "gs://b/model.ckpt-9"}, "model.ckpt-9"), ({}, "'path'")):
        (run / "best_result.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=message):
            best_checkpoint(run)


def test_the_original_keys_are_written(tmp_path):
    _save(tmp_path, 5)
    metrics = {"pearson_spearman": 0.4, "pearson": 0.5, "spearman": 0.3, "accuracy": math.nan}
    write_best(BestCheckpoint(saved_steps(tmp_path)[0], {"dev": metrics}), tmp_path)
    result = json.loads((tmp_path / "best_result.json").read_text())
    assert (result["corr"], result["accu"]) == (0.5, None) and "f1" not in result
    assert result["path"] == str(tmp_path / "model.ckpt-5")


def test_waiting_for_checkpoints(tmp_path, monkeypatch):
    """A trainer saves while the evaluator sleeps; a deleted checkpoint is passed over."""
    moments = iter([[1], [2, 3], [4]])
    monkeypatch.setattr(run_directory.time, "sleep", lambda _: _save(tmp_path, *next(moments, [])))
    found = wait_for_steps(tmp_path, after=-1, upto=10**7, last_step=4, patience=100.0)
    steps = [next(found).step, next(found).step]
    (tmp_path / "model.ckpt-3.index").unlink()
    assert [*steps, *(saved.step for saved in found)] == [1, 2, 4]


def test_waiting_passes_over_checkpoints_that_only_serve_to_resume(tmp_path):
    _save(tmp_path, 100, 150, 200)
    (tmp_path / "save_state.json").write_text('{"step": 150, "temporary": [150], "log": {}}')
    found = wait_for_steps(tmp_path, -1, upto=10**7, last_step=200, patience=1.0)
    assert [saved.step for saved in found] == [100, 200]


def test_waiting_ends(tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(run_directory.time, "sleep", lambda _: None)
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        list(wait_for_steps(tmp_path / "none", -1, 10, 10, patience=5.0))
    _save(tmp_path, 3, 7)
    found = wait_for_steps(tmp_path, -1, upto=5, last_step=10, patience=5.0)
    assert [saved.step for saved in found] == [3]
    (tmp_path / "progress.json").write_text('{"finished": true}')
    found = wait_for_steps(tmp_path, 2, upto=10**7, last_step=40000, patience=1e9)
    assert [saved.step for saved in found] == [3, 7]
