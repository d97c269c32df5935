"""Frozen parts, early stopping and activation recomputation in fine-tuning."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.config.model import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig
from funnel.utils.errors import ConfigError
from funnel_torch.models.heads import FunnelForSequenceClassification
from funnel_torch.tasks.config import FineTuneConfig
from funnel_torch.tasks.finetune import prepare_model
from funnel_torch.training.freezing import count_parameters, freeze, parameter_parts
from funnel_torch.training.optimizer import build_optimizer, parameter_groups
from trainer_cases import StateSaver, directory_output, make

torch.set_num_threads(1)
CONFIG = ModelConfig(
    vocab_size=20, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="2_1"
)


def build():
    torch.manual_seed(0)
    return FunnelForSequenceClassification(CONFIG, num_labels=2)


def step(model):
    draw = np.random.default_rng(0)
    ids = torch.from_numpy(draw.integers(5, 20, (4, 12)))
    torch.manual_seed(1)
    kinds = torch.tensor([2, *[0] * 5, *[1] * 6]).repeat(4, 1)
    labels = torch.tensor([0, 1, 0, 1])
    model(ids, token_type_ids=kinds, labels=labels).loss.backward()


@pytest.mark.parametrize("name", ["adamw", "funnel_adamw"])
def test_frozen_parameters_have_neither_gradient_nor_state(name):
    model = build()
    freeze(model, "embeddings, encoder.0-1")
    step(model)
    optimizer = build_optimizer(model, OptimizerConfig(name, weight_decay=0.1))
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    parts = parameter_parts(name for name, _ in model.named_parameters())
    assert set(parts.values()) == {("embeddings", 0), *(("encoder", k) for k in range(3)), None}
    for parameter_name, parameter in model.named_parameters():
        part = parts[parameter_name]
        is_frozen = part in (("embeddings", 0), ("encoder", 0), ("encoder", 1))
        assert (parameter.grad is None) == is_frozen, parameter_name
        assert (parameter in optimizer.state) != is_frozen, parameter_name
        assert torch.equal(parameter, before[parameter_name]) == is_frozen, parameter_name
    count = count_parameters(model)
    assert 0 < count["trained"] < count["total"]


def test_gradients_of_the_others_are_unchanged():
    frozen, free = build(), build()
    freeze(frozen, "encoder.0")
    step(frozen)
    step(free)
    pairs = zip(frozen.named_parameters(), free.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_layer_decay_counts_frozen_layers():
    config = OptimizerConfig(layer_decay_rate=0.5)
    free, frozen = build(), build()
    freeze(frozen, "encoder.2")

    def scales(model):
        groups = parameter_groups(model, config)
        return {id(p): group["grad_scale"] for group in groups for p in group["params"]}

    for one, other in zip(free.parameters(), frozen.parameters(), strict=True):
        assert not other.requires_grad or scales(free)[id(one)] == scales(frozen)[id(other)]


@pytest.mark.parametrize(
    "term",
    ["encoder.3", "encoder.1-3", "encoder.2-1", "decoder", "head", "embeddings.0", "é", "a b"],
)
def test_unknown_parts_are_refused_with_those_there_are(term):
    with pytest.raises(ConfigError, match=r"--freeze: .* it has embeddings, encoder, encoder.0-2$"):
        freeze(build(), f"embeddings,{term}")


@pytest.mark.parametrize("extra", ["", "embeddings,encoder.0"])
def test_recomputed_gradients_are_equal(extra):
    plain, recomputed = build(), build()
    for model, recompute in ((plain, False), (recomputed, True)):
        config = FineTuneConfig(recompute_layers=recompute, freeze=extra or None)
        prepare_model(model.train(), config, evaluates=True)
        step(model)
    pairs = zip(plain.named_parameters(), recomputed.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad), name


def test_patience_ends_training_and_the_run_is_finished(tmp_path):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    trainer = make(total_steps=20, eval_steps=2, patience=2, save_steps=0)
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    progress = trainer.train(lambda: {"dev": {"score": next(scores)}})
    assert (progress.step, progress.best_step, progress.stopped_early) == (8, 4, True)
    directory = trainer.output.directory
    assert directory.read_progress() == (8, 20)
    # Restored, it has nothing left to do.
    again = make(total_steps=20, eval_steps=2, patience=2)
    again.restore(directory.load_state())
    assert again.train(lambda: {"dev": {"score": 1.0}}).step == 8
    assert isinstance(trainer.output.saver, StateSaver)


def test_patience_survives_an_interruption(tmp_path):
    first = make(total_steps=6, eval_steps=2, patience=3)
    first.output = directory_output(tmp_path / "run", first.model)
    scores = iter([0.5, 0.4, 0.4])
    assert first.train(lambda: {"dev": {"score": next(scores)}}).evaluations_since_best == 2
    second = make(total_steps=20, eval_steps=2, patience=3)
    second.restore(first.output.directory.load_state())
    assert second.train(lambda: {"dev": {"score": 0.4}}).step == 8


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="--patience=0"):
        FineTuneConfig(patience=0)
    with pytest.raises(ConfigError, match="needs dev data"):
        prepare_model(build(), FineTuneConfig(patience=1), evaluates=False)
    with pytest.raises(ConfigError, match="--extend_to=10: must be more than epochs=10"):
        FineTuneConfig(extend_to=10)
    with pytest.raises(ConfigError, match="train_steps=100"):
        FineTuneConfig(train_steps=100, extend_to=20)


def test_an_extension_keeps_the_warm_up_of_the_original_run():
    config, longer = FineTuneConfig(epochs=2), FineTuneConfig(epochs=2, extend_to=40)
    assert longer.total_steps(10) == 400
    assert longer.schedule(10).warmup_steps == config.schedule(10).warmup_steps == 2
