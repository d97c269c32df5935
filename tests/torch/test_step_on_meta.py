"""A step of the training loop makes no tensor on the CPU, and asks no tensor for its value.

The device "meta" has shapes and no data: an operation that mixes it with a CPU tensor fails, and so
does everything for which a GPU would have to be waited for (``item``, ``nonzero``, ``bool``).
"""

import contextlib
import importlib

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from funnel import ModelConfig
from funnel.config.heads import PretrainingConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.data.batching import to_device
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining, PretrainingBatch
from funnel_torch.models.layers import recompute_layers
from funnel_torch.models.pretraining_batch import LossDenominators
from funnel_torch.tasks.pretrain import PretrainingMeter
from funnel_torch.training import trainer as training
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.optimizer import FunnelAdamW, build_optimizer, parameter_groups

BATCH, LENGTH, TARGETS = 3, 21, 4
META = torch.device("meta")
WORLD = DistributedContext(0, 1, META)


# Operations that copy a scalar to a GPU, and wait for it; others pass it to their kernel.
COPYING = ("aten::copy_", "aten::_to_copy")


class OnlyMeta(TorchDispatchMode):
    """Refuses every operation that makes a tensor elsewhere, but for the scalars of PyTorch."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._schema.name in COPYING:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            assert all(tensor.device == META for tensor in tensors), f"{func} copies from the CPU"
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


@pytest.fixture(autouse=True)
def _as_a_gpu(monkeypatch):
    """What PyTorch lacks on "meta": autocast, and a form of the fused optimizer."""
    monkeypatch.setattr(training, "autocast", lambda *args: contextlib.nullcontext())
    module = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_fused_adamw_.tensor_lr", lambda *args, **named: None, "Meta")
        yield


def make_optimizer(name, model):
    groups = parameter_groups(
        model, OptimizerConfig(name=name, layer_decay_rate=0.9, weight_decay=0.1)
    )
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    return FunnelAdamW(groups, fused=True)


def make_trainer(model, name):
    meter = training.Meter()
    if not isinstance(model, FunnelForSequenceClassification):
        meter = PretrainingMeter(WORLD, 1, 1.0, lambda: 0.0)
    return training.Trainer(
        model, make_optimizer(name, model), ScheduleConfig(1e-3, 9, 0), None,
        TrainerConfig(9, save_minutes=0), WORLD, training.RunOutput(meter=meter),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("attention_type", "recomputes", "name"),
    [
        ("rel_shift", False, "adamw"),
        ("rel_shift", True, "funnel_adamw"),
        ("factorized", False, "funnel_adamw"),
    ],
)
def test_a_step_of_the_loop_stays_on_its_device(kind, attention_type, recomputes, name):
    """Two micro-batches: backward, clipping, the decision to skip, the optimizer, the results."""
    build, make_inputs = MODELS[kind]
    with META:
        model = build(make_config(attention_type)).train()
    if recomputes:
        recompute_layers(model)
    trainer, inputs = make_trainer(model, name), make_inputs()
    with OnlyMeta():
        for _ in range(2):  # the second one continues with moments and step counts
            numbers = trainer._enqueue_step([(inputs, 0.5), (inputs, 0.5)])
    assert numbers.device == META and numbers.shape == (4,)
    assert len(trainer.optimizer.state) > 20


def test_an_optimizer_that_asks_for_the_norm_is_seen():
    with META:
        model = FunnelForSequenceClassification(make_config(), num_labels=2)
    trainer = make_trainer(model, "adamw")
    trainer.optimizer = build_optimizer(model, OptimizerConfig(name="funnel_adamw"))
    with pytest.raises((RuntimeError, NotImplementedError)), OnlyMeta():
        trainer._enqueue_step([(classification_inputs(), 1.0)])


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


@pytest.mark.parametrize(
    "copies", [lambda x: x.copy_(torch.zeros(())), lambda x: torch.as_tensor(2.0).to(x.device)]
)
def test_a_scalar_that_is_copied_is_seen(copies):
    with pytest.raises(AssertionError, match="copies from the CPU"), OnlyMeta():
        copies(torch.zeros(3, device=META))


def test_copies_to_a_gpu_are_from_page_locked_memory(monkeypatch):
    made = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: made.append(len(x)) or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: (device, non_blocking))
    tensors = {"a": torch.zeros(2), "b": ids(3)}
    for device, pinned in (("cuda", [2]), ("cpu", [])):
        made.clear()
        found = to_device(tensors, torch.device(device))
        assert made == pinned and set(found.values()) == {(torch.device(device), True)}
