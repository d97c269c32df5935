"""Fine-tuning: initial models, prediction order, intervals, scores, files."""

import copy
import dataclasses
import functools
import logging
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.checkpoints import Checkpoint
from funnel.config.model import ModelConfig
from funnel.features.classification import Features
from funnel.tasks import get_task
from funnel.tasks.predictions import write_predictions
from funnel.utils.errors import CheckpointError, ConfigError, DataError
from funnel_torch.data.batching import BatchConfig, SequenceSource
from funnel_torch.models import initial_model
from funnel_torch.models.heads import FunnelForSequenceClassification
from funnel_torch.models.initial_model import InitConfig, build_model
from funnel_torch.models.weight_mapping import export_tensors
from funnel_torch.tasks.classification import (
    DataConfig,
    build_evaluation,
    decisions,
    load_splits,
    mean_loss,
)
from funnel_torch.tasks.finetune import Evaluation, FineTuneConfig, evaluate, fine_tune, predict
from funnel_torch.training.distributed import DistributedContext

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
ALONE = DistributedContext(0, 1, torch.device("cpu"))
CONFIG = ModelConfig(
    vocab_size=20,
    d_model=16,
    d_embed=16,
    n_head=2,
    d_head=8,
    d_inner=32,
    block_size="1_1",
    dropout=0.0,
    dropatt=0.0,
)


def easy_source(n=48, seed=0):
    """The class is the second token: 10 or 11."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    lengths = random.integers(3, 12, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(5, 10, offsets[-1]).astype(np.int32)
    ids[offsets[:-1] + 1] = 10 + labels
    segments = np.zeros(offsets[-1], np.int8)
    segments[offsets[:-1]] = 2
    return SequenceSource(Features(ids, segments, offsets, labels), CONFIG, 16, pad_id=0)


def small_model(seed=0, **arguments):
    torch.manual_seed(seed)
    return FunnelForSequenceClassification(CONFIG, **arguments)


def test_fine_tuning_learns_and_scores():
    task = get_task("cola")
    model = small_model()
    evaluation = build_evaluation(task, "dev", easy_source(seed=1), 8)
    before = evaluate(model, evaluation, ALONE)
    config = FineTuneConfig(BatchConfig(8), lr=5e-3, epochs=12)
    progress = fine_tune(model, easy_source(), [evaluation], config, ALONE)
    after = evaluate(model, evaluation, ALONE)
    assert list(after) == ["matthews_corr", "accuracy", "loss"]
    assert after["accuracy"] > 0.95 > before["accuracy"]
    assert progress.step == 72
    assert progress.best_score >= after["matthews_corr"]


def test_predictions_come_in_the_order_of_the_examples():
    model, source = small_model().eval(), easy_source()
    found = predict(model, source, ["logits"], ALONE, batch_size=7)["logits"]
    for index in (0, 5, 47):
        inputs = source.collate(np.array([index]))
        with torch.no_grad():
            alone = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits
        np.testing.assert_allclose(found[index], alone[0].numpy(), rtol=1e-4, atol=1e-6)


def test_evaluation_between_steps_uses_the_weights_of_that_step():
    """A fused optimizer changes weights without raising their version: no cache may rely on it."""
    source = easy_source(seed=1)
    model, seen = small_model(), []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)  # position scores that matter

    def check(outputs):
        fresh = copy.deepcopy(model)
        expected = predict(fresh, source, ["logits"], ALONE, batch_size=48)["logits"]
        np.testing.assert_array_equal(outputs["logits"], expected)
        seen.append(expected)
        return {"accuracy": 0.0}

    config = FineTuneConfig(BatchConfig(16), lr=1e-2, epochs=3)
    evaluation = Evaluation("dev", source, check, batch_size=48)
    fine_tune(model, easy_source(), [evaluation], config, ALONE)
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])


def test_compiled_steps_give_the_same_weights(monkeypatch):
    """With the backend that only traces: real compilation takes minutes."""
    compiled = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compiled)
    weights = []
    for compile_it in (False, True):
        model = small_model()
        source = dataclasses.replace(easy_source(24), length_step=8)
        config = FineTuneConfig(BatchConfig(12), lr=1e-2, train_steps=3, compile=compile_it)
        fine_tune(model, source, [], config, ALONE)
        weights.append(model.classifier.linear_out.weight.detach())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)


def test_predicting_draws_no_random_numbers():
    model, source = small_model(), easy_source()
    before = torch.get_rng_state()
    predict(model, source, ["logits"], ALONE)
    assert torch.equal(before, torch.get_rng_state())


def test_intervals_and_schedule():
    config = FineTuneConfig(BatchConfig(4), epochs=3, warmup_prop=0.1, logs_per_epoch=20)
    trainer, schedule = config.trainer(50), config.schedule(50)
    assert (trainer.total_steps, trainer.log_steps, trainer.eval_steps) == (150, 2, 50)
    assert (schedule.warmup_steps, schedule.total_steps) == (15, 150)
    # Data smaller than the log interval: the original divided by zero.
    assert config.trainer(3).log_steps == 1
    assert dataclasses.replace(config, logs_per_epoch=0).trainer(7).log_steps == 7
    steps = dataclasses.replace(config, train_steps=40, warmup_steps=4, eval_steps=10)
    assert steps.trainer(50).total_steps == 40
    assert steps.trainer(50).eval_steps == 10
    assert steps.schedule(50).warmup_steps == 4
    with pytest.raises(ConfigError, match="warmup_prop"):
        FineTuneConfig(BatchConfig(4), warmup_prop=1.5)
    with pytest.raises(ConfigError, match="epochs"):
        FineTuneConfig(BatchConfig(4), epochs=0)


def test_the_loss_of_an_evaluation_is_the_training_loss():
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 2, 1, 0])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert mean_loss(get_task("mnli"), logits, labels) == pytest.approx(expected.item(), rel=1e-6)
    scores, truth = np.array([[1.0], [4.0]]), np.array([2.0, 4.0])
    assert mean_loss(get_task("sts-b"), scores, truth) == 0.5
    assert decisions(get_task("sts-b"), scores).tolist() == [1.0, 4.0]


def test_prediction_file(tmp_path):
    rte, sts_b = get_task("rte"), get_task("sts-b")
    logits = np.array([[0.0, 1.0], [2.0, 1.0]])
    write_predictions(tmp_path / "r.txt", rte, decisions(rte, logits))
    text = (tmp_path / "r.txt").read_text()
    assert text == "not_entailment\nentailment\n"
    write_predictions(tmp_path / "r.txt", sts_b, decisions(sts_b, np.array([[1.5]])))
    assert (tmp_path / "r.txt").read_text() == "1.500000\n"


def vocabulary(tmp_path, size, name="vocab.txt"):
    path = tmp_path / name
    path.write_text("".join(f"{name}-{i}\n" for i in range(size)))
    return SimpleNamespace(vocab_size=size, path=str(path))


def saved(monkeypatch, metadata=(), **arguments):
    """Make build_model find the tensors of a fresh classifier at any path."""
    model = small_model(**arguments)
    checkpoint = Checkpoint(CONFIG, export_tensors(model), {"path": "ckpt", **dict(metadata)})
    monkeypatch.setattr(initial_model, "load_checkpoint", lambda path, **_: checkpoint)
    return model


def build(start, tokenizer, max_length=16, **arguments):
    return build_model(FunnelForSequenceClassification, start, tokenizer, max_length, **arguments)


def test_from_scratch_takes_flags_or_file(tmp_path):
    tokenizer = vocabulary(tmp_path, 20)
    start = InitConfig(fallback=CONFIG, attn_type="factorized", truncate_seq=False)
    model = build(start, tokenizer, num_labels=3)
    assert model.config == CONFIG.replace(rel_attn_type="factorized", truncate_seq=False)
    assert model.num_labels == 3
    path = tmp_path / "net_config.json"
    CONFIG.replace(d_inner=64, dropact=0.3).save_net_config(path)
    start = InitConfig(config_path=str(path), fallback=CONFIG, overwrite=("dropact",))
    config = build(start, tokenizer).config
    assert (config.d_inner, config.dropact) == (64, 0.0)
    with pytest.raises(ConfigError, match="'depth' is no setting"):
        build(dataclasses.replace(start, overwrite=("depth",)), tokenizer)


def test_null_attention_is_never_replaced_and_limits_the_length(tmp_path):
    path = tmp_path / "net_config.json"
    CONFIG.replace(rel_attn_type="null", block_size="2").save_net_config(path)
    start, tokenizer = InitConfig(config_path=str(path), fallback=CONFIG), vocabulary(tmp_path, 20)
    assert build(start, tokenizer, max_length=512).config.rel_attn_type == "null"
    with pytest.raises(ConfigError, match="512 positions"):
        build(start, tokenizer, max_length=513)


def test_weights_come_from_the_checkpoint(tmp_path, monkeypatch):
    trained = saved(monkeypatch, num_labels=3, seed=4)
    start = InitConfig("ckpt", fallback=CONFIG.replace(dropout=0.4), overwrite=("dropout",))
    model = build(start, vocabulary(tmp_path, 20), num_labels=3)
    assert model.config.dropout == 0.4
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_head_of_another_size(tmp_path, monkeypatch, caplog):
    trained = saved(monkeypatch, num_labels=3, seed=4)
    tokenizer = vocabulary(tmp_path, 20)
    with pytest.raises(CheckpointError, match="has 3 outputs, the task needs 2; --new_head"):
        build(InitConfig("ckpt", fallback=CONFIG), tokenizer, num_labels=2)
    with caplog.at_level(logging.WARNING):
        start = InitConfig("ckpt", fallback=CONFIG, new_head=True)
        model = build(start, tokenizer, num_labels=2)
    assert "logit/kernel" in caplog.text  # newly initialised weights are named
    encoder = model.funnel.state_dict()
    assert all(torch.equal(encoder[k], v) for k, v in trained.funnel.state_dict().items())
    assert model.classifier.linear_out.weight.abs().sum() > 0


def test_vocabulary_must_fit(tmp_path, monkeypatch, caplog):
    scratch = InitConfig(fallback=CONFIG)
    with caplog.at_level(logging.INFO):
        fitted = build(scratch, vocabulary(tmp_path, 21))
    assert fitted.config.vocab_size == 21 and "vocab_size 20 of the model" in caplog.text
    build(scratch, vocabulary(tmp_path, 19))  # room for more is fine in a fresh model
    saved_vocabulary = vocabulary(tmp_path, 19, "saved.txt")
    saved(monkeypatch, {"vocab_path": saved_vocabulary.path})
    trained = InitConfig("ckpt", fallback=CONFIG)
    with pytest.raises(ConfigError, match="it was trained with"):
        build(trained, vocabulary(tmp_path, 19, "other.txt"))
    with pytest.raises(ConfigError, match="21 tokens"):
        build(trained, vocabulary(tmp_path, 21))
    build(trained, saved_vocabulary)


def test_label_order_of_a_trained_head():
    initial_model.check_labels(None, ("a", "b"))
    initial_model.check_labels(("A ", "b"), ("a", "B"))
    initial_model.check_labels(("a", "b"), ("a", "b"))
    with pytest.raises(ConfigError, match="b, a"):
        initial_model.check_labels(("b", "a"), ("a", "b"))
    with pytest.raises(ConfigError, match="are x, y in this order, the task's are a, b"):
        initial_model.check_labels(("x", "y"), ("a", "b"))


def test_bad_data_starts_no_cache(tmp_path):
    rows = ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tentailment", "1\tc\td\tentailment"]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "dev.tsv").write_text("\n".join(rows).replace("d\tent", "d\tun") + "\n")
    config = DataConfig(str(tmp_path), str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"dev\.tsv:3"):
        load_splits(get_task("rte"), ["train", "dev"], config, None)
    assert not (tmp_path / "cache").exists()
