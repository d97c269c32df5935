"""Training a toy graph with TPUEstimator: logs, resuming, summaries, initial weights, errors."""

import importlib.util
import math

import numpy as np
import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError, ConfigError, RunError
from funnel_tf.cli.start import silence_tensorflow
from funnel_tf.models.initial_model import InitConfig, compare
from funnel_tf.training.estimator import (
    RunSettings,
    build_estimator,
    evaluate_graph,
    make_model_fn,
    predict_all,
    train,
)
from funnel_tf.training.run_directory import latest_step
from funnel_tf.training.settings import TpuAddress
from tf_training_cases import (
    EXAMPLES,
    Recorder,
    toy_data,
    toy_graph,
    toy_input,
    toy_settings,
    toy_training,
)

pytestmark = pytest.mark.slow

silence_tensorflow()


def _run(settings, log=None, init=None, input_fn=None, **training):
    model_fn = make_model_fn(toy_graph, settings, toy_training(**training), init, log)
    estimator = build_estimator(settings, model_fn)
    return train(estimator, input_fn or toy_input(latest_step(settings.model_dir)), settings)


def _losses(log):
    return [row["loss"] for row in log.rows]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    complete, first, second = Recorder(), Recorder(), Recorder()
    assert _run(toy_settings(tmp_path / "complete"), complete) == 8
    assert _run(toy_settings(tmp_path / "parts", train_steps=4), first) == 4
    assert _run(toy_settings(tmp_path / "parts"), second) == 8
    assert [row["step"] for row in complete.rows] == list(range(1, 9))
    assert _losses(first) + _losses(second) == _losses(complete)
    assert sum(_losses(complete)[4:]) < sum(_losses(complete)[:4])  # the same four batches twice
    assert {"loss", "lr", "grad_norm", "bias", "examples_per_second"} <= set(complete.rows[0])
    ends = [dict(TFCheckpoint(tmp_path / name)) for name in ("complete", "parts")]
    assert sorted(ends[0]) == sorted(ends[1])
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_logged_loss_is_the_mean_since_the_last_log_line(tmp_path):
    every, third = Recorder(), Recorder()
    _run(toy_settings(tmp_path / "a"), every)
    _run(toy_settings(tmp_path / "b", log_freq=3), third)
    assert [row["step"] for row in third.rows] == [3, 6, 8]
    losses = _losses(every)
    means = [np.mean(losses[:3]), np.mean(losses[3:6]), np.mean(losses[6:])]
    np.testing.assert_allclose(_losses(third), means, rtol=1e-6)


def test_evaluation_and_prediction_count_every_example_once(tmp_path, caplog):
    settings = toy_settings(tmp_path, train_steps=2, eval_batch_size=10, predict_batch_size=10)
    _run(settings, Recorder())
    estimator = build_estimator(settings, make_model_fn(toy_graph, settings))
    prefix = tmp_path / "model.ckpt-2"
    found = predict_all(estimator, toy_input(repeat=False), prefix)["found"]
    assert found.shape == (EXAMPLES,)
    scores = evaluate_graph(estimator, toy_input(repeat=False), prefix, 7)
    assert scores == {"mse": pytest.approx(np.mean((found - toy_data()["y"]) ** 2), rel=1e-5)}


def test_finished_training_is_not_repeated(tmp_path, caplog):
    settings = toy_settings(tmp_path, train_steps=2)
    _run(settings, Recorder())
    again = Recorder()
    with caplog.at_level("INFO", "funnel_tf"):
        assert _run(settings, again) == 2
    assert not again.rows and "training is finished at step 2" in caplog.text


def test_nan_ends_a_run_or_is_skipped(tmp_path):
    settings, log = toy_settings(tmp_path / "ends"), Recorder()
    with pytest.raises(RunError, match="loss is NaN after step 0.*--skip_nan_grad"):
        _run(settings, log, input_fn=toy_input(broken=True))
    log = Recorder()
    settings = toy_settings(tmp_path / "skips")
    assert _run(settings, log, input_fn=toy_input(broken=True), skip_nan_grad=True) == 8
    assert [row["skipped"] for row in log.rows] == [0, 0, 1, 1, 1, 1, 2, 2]
    assert math.isfinite(log.rows[3]["loss"])


def test_host_call_writes_summaries(tmp_path):
    _run(toy_settings(tmp_path, log_freq=2), log=None)
    rows = {}
    for path in tmp_path.glob("events.out.tfevents.*"):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                rows.setdefault(value.tag, []).append(event.step)
    assert rows["train/loss"] == rows["train/lr"] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_batch_size": 0}, "train_batch_size=0"),
        ({"save_steps": 0}, "save_steps=0"),
        ({"use_tpu": True, "num_core_per_host": 0}, "--num_core_per_host=0 .CORES in.* at least 1"),
        ({"use_tpu": True, "iterations": 0}, "--iterations=0 .*must be at least 1"),
        ({"max_save": -1}, "--max_save=-1: must not be negative"),
    ],
)
def test_invalid_settings(change, message):
    with pytest.raises(ConfigError, match=message):
        RunSettings("x", **change)


def test_a_tpu_needs_an_address(tmp_path):
    settings = toy_settings(tmp_path, use_tpu=True)
    with pytest.raises(ConfigError, match="--tpu=local.*--use_tpu=False"):
        build_estimator(settings, make_model_fn(toy_graph, settings))


@pytest.mark.parametrize(
    ("name", "cores", "message"),
    [
        ("local", 8, "Cannot find any TPU cores"),
        ("local", 1, "this machine has no TPU"),
        ("elsewhere", 8, "pip install cloud-tpu-client"),
    ],
)
def test_a_tpu_that_is_not_there(tmp_path, name, cores, message):
    pytest.importorskip("tensorflow_estimator")
    if importlib.util.find_spec("googleapiclient"):
        pytest.skip("asks Google for the TPU")
    address = TpuAddress(name, zone="z", project="p")
    settings = toy_settings(tmp_path, use_tpu=True, address=address, num_core_per_host=cores)
    with pytest.raises(ConfigError, match=f"{message}.*; --tpu=local") as caught:
        _run(settings)
    assert "\n" not in str(caught.value)


def test_a_tpu_with_other_cores_than_the_flags_say(tmp_path, monkeypatch):
    said = (
        "TPUConfig.num_shards is not set correctly. According to TPU system metadata "
        "for Tensorflow master (grpc://a): num_replicas should be (8), got (3). For ..."
    )

    def refuse(*args, **kwargs):
        raise ValueError(said)

    settings = toy_settings(tmp_path)
    model_fn = make_model_fn(toy_graph, settings, toy_training(), None, None)
    estimator = build_estimator(settings, model_fn)
    monkeypatch.setattr(estimator, "train", refuse)
    with pytest.raises(
        ConfigError, match=r"\(CORES in the scripts\) is 3, but the TPU has 8 cores"
    ):
        train(estimator, toy_input(0), settings)
    said = "another error"
    with pytest.raises(ValueError, match="another error"):
        train(estimator, toy_input(0), settings)


def _toy_weights(**changes):
    weights = {
        "model/encoder/layer_0/kernel": np.array([3.0, 3.0, 3.0], "f"),
        "model/encoder/layer_0/bias": np.array(0.5, "f"),
        "model/encoder/layer_0/kernel/adam_m": np.array([1.0, 1.0, 1.0], "f"),
        "global_step": np.array(5, np.int64),
    }
    return {k: v for k, v in (weights | changes).items() if v is not None}


@pytest.mark.parametrize(("with_optimizer", "step"), [(False, 1), (True, 6)])
def test_initial_weights_from_a_checkpoint(tmp_path, with_optimizer, step):
    write_tf_checkpoint(tmp_path / "init" / "model.ckpt", _toy_weights())
    init = InitConfig(str(tmp_path / "init"), with_optimizer)
    settings = toy_settings(tmp_path / "run", train_steps=step, save_steps=1)
    log = Recorder()
    assert _run(settings, log, init) == step
    data = toy_data()
    error = data["x"][:16] @ np.full(3, 3.0) + 0.5 - data["y"][:16]
    assert log.rows[0]["step"] == step
    assert log.rows[0]["loss"] == pytest.approx(np.mean(error**2), rel=1e-5)
    begin = TFCheckpoint(tmp_path / "run" / f"model.ckpt-{step - 1}")
    assert begin["model/encoder/layer_0/kernel/adam_m"].max() == float(with_optimizer)


def test_one_message_lists_all_mismatches(tmp_path):
    weights = _toy_weights(
        **{
            "model/encoder/layer_0/kernel": np.zeros((2, 2), "f"),
            "model/encoder/layer_0/bias": None,
        }
    )
    write_tf_checkpoint(tmp_path / "init" / "model.ckpt", weights)
    with pytest.raises(CheckpointError) as caught:
        _run(toy_settings(tmp_path / "run"), Recorder(), InitConfig(str(tmp_path / "init")))
    message = str(caught.value)
    assert "1 missing: model/encoder/layer_0/bias" in message
    assert "1 of another shape: model/encoder/layer_0/kernel [2, 2] should be [3]" in message


def test_heads_may_start_fresh(caplog):
    with tf.Graph().as_default():
        names = ("model/encoder/layer_0/bias", "model/rte/logit/bias")
        variables = [tf.get_variable(name, [2], use_resource=True) for name in names]
        report = compare(variables, {})
    assert report.missing == [names[0]] and report.fresh == [names[1]]
