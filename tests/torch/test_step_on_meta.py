"""A training step makes no tensor on the CPU on its way, and asks no tensor for its value.

The device "meta" has shapes and no data: an operation that mixes it with a CPU tensor fails, and so
does everything for which a GPU would have to be waited for (``item``, ``nonzero``, ``bool``).
"""

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from funnel import ModelConfig
from funnel.config.heads import PretrainingConfig
from funnel.config.training.optimizer import OptimizerConfig
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.data.batching import to_device
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining, PretrainingBatch
from funnel_torch.models.layers import recompute_layers
from funnel_torch.models.pretraining_batch import LossDenominators
from funnel_torch.training.optimizer import build_optimizer, clip_gradients, scale_gradients

BATCH, LENGTH, TARGETS = 3, 21, 4
META = torch.device("meta")


class OnlyMeta(TorchDispatchMode):
    """Refuses every operation that makes a tensor elsewhere, but for the scalars of PyTorch."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.device != META:
                assert tensor.dim() == 0, f"{func} made {tuple(tensor.shape)} on {tensor.device}"
        return out


def make_config(attention_type="rel_shift", **changes):
    return ModelConfig(
        block_size="2_1x2", decoder_size="1", d_model=16, d_embed=16, n_head=2, d_head=8,
        d_inner=32, vocab_size=50, dropout=0.1, dropatt=0.1, rel_attn_type=attention_type,
    ).replace(**changes)  # fmt: skip


def ids(*shape):
    return torch.zeros(shape, dtype=torch.long, device=META)


def pretraining_inputs():
    fields = {
        "masked_input": ids(BATCH, LENGTH), "origin_input": ids(BATCH, LENGTH),
        "token_type_ids": ids(BATCH, LENGTH), "attention_mask": ids(BATCH, LENGTH),
        "mlm_attention_mask": ids(BATCH, LENGTH), "target": ids(BATCH, TARGETS),
        "target_positions": ids(BATCH, TARGETS), "target_mask": ids(BATCH, TARGETS),
    }  # fmt: skip
    batch = PretrainingBatch(**fields)
    return {"batch": batch, "denominators": LossDenominators(ids(), ids())}


def classification_inputs():
    mask = torch.ones(BATCH, LENGTH, device=META)
    names = {"input_ids": ids(BATCH, LENGTH), "token_type_ids": ids(BATCH, LENGTH)}
    return names | {"attention_mask": mask, "labels": ids(BATCH)}


MODELS = {
    "MLM": (lambda config: MLMPretraining(config), pretraining_inputs),
    "ELECTRA": (
        lambda config: ElectraPretraining(config, PretrainingConfig(width_shrink=0.5)),
        pretraining_inputs,
    ),
    "classification": (
        lambda config: FunnelForSequenceClassification(config, num_labels=2),
        classification_inputs,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("attention_type", "recomputes"),
    [("rel_shift", False), ("rel_shift", True), ("factorized", False)],
)
def test_a_step_stays_on_its_device(kind, attention_type, recomputes):
    build, make_inputs = MODELS[kind]
    with META:
        model = build(make_config(attention_type)).train()
    if recomputes:
        recompute_layers(model)
    optimizer = build_optimizer(
        model, OptimizerConfig(name="funnel_adamw", layer_decay_rate=0.9, weight_decay=0.1)
    )
    inputs = make_inputs()
    with OnlyMeta():
        output = model(**inputs)
        output.loss.backward()
        clip_gradients(list(model.parameters()), 1.0)
        scale_gradients(optimizer)
        optimizer.step()
    assert output.loss.device == META
    assert sum(p.grad is not None for p in model.parameters()) > 20


@pytest.mark.parametrize(
    "waits", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()), torch.nonzero]
)
def test_waiting_is_seen(waits):
    with pytest.raises((RuntimeError, NotImplementedError)), OnlyMeta():
        waits(torch.zeros(3, device=META))


@pytest.mark.parametrize("strays", [lambda: torch.zeros(3), lambda: torch.arange(2) + 1])
def test_a_tensor_on_the_cpu_is_seen(strays):
    with pytest.raises(AssertionError, match="on cpu"), OnlyMeta():
        strays()


def test_copies_to_a_gpu_are_from_page_locked_memory(monkeypatch):
    made = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: made.append(len(x)) or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: (device, non_blocking))
    tensors = {"a": torch.zeros(2), "b": ids(3)}
    for device, pinned in (("cuda", [2]), ("cpu", [])):
        made.clear()
        found = to_device(tensors, torch.device(device))
        assert made == pinned and set(found.values()) == {(torch.device(device), True)}
