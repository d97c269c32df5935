"""Frozen parts, early stopping and held-out dev data of TensorFlow's classifier, in one run."""

import json
import logging

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

from classifier_runs import invoke, refuse, write_files
from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.utils.logging import read_metrics
from funnel_tf.training.evaluation import BestCheckpoint
from funnel_tf.training.freezing import variable_parts
from funnel_tf.training.patience import CachedScores, is_exhausted, train_with_patience
from funnel_tf.training.run_directory import SavedStep, saved_steps
from tf_program_runs import classifier_flags, load_tf_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return load_tf_program("classifier")


def test_one_run_with_all_of_it(program, tmp_path, caplog, monkeypatch):
    write_files(tmp_path)
    (tmp_path / "CoLA" / "dev.tsv").unlink()
    monkeypatch.setattr("funnel_tf.cli.start.configure_logging", lambda *_, **__: None)
    # With a rate of 0 no checkpoint is better than the first one.
    economy = {"freeze": "embeddings,encoder.0", "patience": 2, "dev_fraction": 0.25}
    changes = {"learning_rate": 0, "train_steps": 40, "save_steps": 1, "retain_all": True}
    argv = classifier_flags(tmp_path, do_eval=True, weight_decay=0.1, **economy, **changes)
    with caplog.at_level(logging.INFO):
        assert invoke(program, argv) == 0
    run, text = tmp_path / "run", "\n".join(caplog.messages)
    assert [saved.step for saved in saved_steps(run)] == [0, 1, 2, 3]
    progress = json.loads((run / "progress.json").read_text())
    assert progress == {"step": 3, "total_steps": 3, "finished": True}
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3]
    assert [row["step"] for row in rows if row["split"] == "dev"] == [0, 1, 2, 3]
    assert "12 of the 48 examples" in text and "are frozen (" in text
    assert "step 1 of 40 (stopped early" in text and "python" not in text.split("to predict")[0]
    record = json.loads((run / "run_config.json").read_text())
    assert record["resolved"]["parameters"]["encoder"] > 1000 and record["tensorflow"]
    saved = TFCheckpoint(run / "model.ckpt-3")
    slots = {name for name in saved if name.endswith("/adam_m")}
    parts = variable_parts(name.removesuffix("/adam_m") for name in slots)
    assert slots and set(parts.values()) == {("encoder", 1), None}
    # The same command does not start again.
    assert invoke(program, argv) == 2


def test_frozen_variables_keep_their_values(program, tmp_path, capsys):
    write_files(tmp_path)
    argv = classifier_flags(tmp_path, train_steps=2, freeze="encoder", save_steps=1, clip=0.0)
    assert invoke(program, argv) == 0
    before, after = (TFCheckpoint(tmp_path / "run" / f"model.ckpt-{n}") for n in (0, 2))
    names = [name for name in after if name.startswith("model/")]
    parts = variable_parts(name for name in names if not name.endswith(("/adam_m", "/adam_v")))
    for name, part in parts.items():
        is_frozen = part is not None and part[0] == "encoder"
        assert np.array_equal(before[name], after[name]) == is_frozen, name
    refuse(
        program,
        capsys,
        classifier_flags(tmp_path, "other", freeze="encoder.5"),
        *("--freeze", "'encoder.5'", "embeddings, encoder, encoder.0-1"),
    )
    assert not (tmp_path / "other" / "run_config.json").exists()
    refuse(
        program, capsys, classifier_flags(tmp_path, "other", patience=1), "--patience", "do_eval"
    )


def test_decoder_layers_are_numbered_from_0():
    names = ["model/input/word_embedding/lookup_table", "model/encoder/layer_1/ff/layer_1/kernel"]
    names += ["model/decoder/layer_2/ff/layer_1/kernel", "model/cola/logit/bias"]
    parts = list(variable_parts(names).values())
    assert parts == [("embeddings", 0), ("encoder", 1), ("decoder", 0), None]


def test_patience_counts_from_the_best(tmp_path):
    def scored(*values):
        return [
            BestCheckpoint(SavedStep(n + 1, tmp_path), {"dev": {"accuracy": value}})
            for n, value in enumerate(values)
        ]

    assert not is_exhausted(scored(0.5), 1)
    assert is_exhausted(scored(0.5, 0.5), 1)
    assert not is_exhausted(scored(0.5, 0.4, 0.6, 0.6), 2)
    assert is_exhausted(scored(0.5, 0.4, 0.6, 0.6, 0.6), 2)


def test_patience_does_not_count_the_checkpoint_of_an_interruption(tmp_path):
    for step in (0, 100, 150):
        (tmp_path / f"model.ckpt-{step}.index").touch()
    parts = []

    def train_until(start, end):
        parts.append((start, end))
        (tmp_path / f"model.ckpt-{end}.index").touch()
        return end

    score = CachedScores(lambda *_: {"dev": {"accuracy": 0.5}})
    assert train_with_patience(train_until, score, tmp_path, (150, 100, 400), 1) == 200
    assert parts == [(150, 200)] and tmp_path / "model.ckpt-150" not in score.found


def test_training_data_is_not_evaluated_while_it_is_trained_on(program, tmp_path, capsys):
    write_files(tmp_path)
    argv = classifier_flags(tmp_path, do_eval=True, eval_split="train", num_passes=2)
    refuse(program, capsys, argv, "--eval_split=train", "--do_train=False")
    assert not (tmp_path / "records").exists()


def test_values_that_cannot_be_trained_with(program, tmp_path, capsys):
    write_files(tmp_path)
    argv = classifier_flags(tmp_path, train_steps=0)
    refuse(program, capsys, argv, "--train_steps=0: must be at least 1")
    refuse(program, capsys, classifier_flags(tmp_path, seed=-1), "--seed=-1: must not be negative")
    argv = classifier_flags(tmp_path, do_eval=True, eval_split="validation")
    refuse(program, capsys, argv, "--eval_split=validation", "cola has train, dev, test only")
    assert not (tmp_path / "run").exists()
