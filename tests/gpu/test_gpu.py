"""What only a GPU can show: the fused kernels in half precision, NCCL, FSDP, fused optimizers."""

import contextlib
import copy
import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel_torch import FunnelForSequenceClassification, FunnelModel
from funnel_torch.data.batching import BatchConfig, TrainBatches
from funnel_torch.kernels import fused_attention
from funnel_torch.models.attention import choose_attention
from funnel_torch.models.layers import FunnelLayer
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.distributed import DistributedConfig, DistributedContext, start
from funnel_torch.training.fsdp import full_tensor
from funnel_torch.training.optimizer import FunnelAdamW, build_optimizer, set_learning_rate
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.trainer import Trainer
from trainer_cases import directory_output

pytestmark = pytest.mark.gpu

needs_triton = pytest.mark.skipif(not fused_attention.has_triton(), reason="no Triton here")


def make_config(**changes):
    settings = {
        "vocab_size": 40, "d_model": 64, "d_embed": 64, "n_head": 2, "d_head": 32, "d_inner": 128,
        "block_size": "1_1", "decoder_size": "1", "dropout": 0.0, "dropatt": 0.0,
    }  # fmt: skip
    return ModelConfig(**(settings | changes))


def make_input(length, device):
    """Ids, a mask with padding, and the segments of a pair."""
    ids = torch.randint(40, (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, length)
    mask[1, length * 3 // 4 :] = 0
    segments = torch.tensor([2] + [0] * (length // 2) + [1] * (length - 1 - length // 2))
    return ids.to(device), mask.to(device), segments.expand(2, -1).to(device)


def run(model, inputs):
    """The output, and the gradients by name, in float64."""
    model.zero_grad()
    out = model(*inputs).last_hidden_state
    out.float().square().mean().backward()
    gradients = {name: p.grad.double().cpu() for name, p in model.named_parameters()}
    return out.detach().double().cpu(), gradients


def error(found, expected):
    return float((found - expected).norm() / expected.norm().clamp(min=1e-6))


@needs_triton
@pytest.mark.parametrize("length", [37, 128, 192])
@pytest.mark.parametrize("pool_q_only", [True, False])
def test_fused_against_float64(length, pool_q_only, device, fused):
    if device.type == "cpu" and not (length == 37 and pool_q_only):
        pytest.skip("the interpreter is slow")
    torch.manual_seed(0)
    model = FunnelModel(make_config(pool_q_only=pool_q_only)).train()
    exact = FunnelModel(model.config).double()
    exact.load_state_dict(model.state_dict())
    choose_attention(exact, "sdpa")
    expected, expected_gradients = run(exact, make_input(length, "cpu"))
    model.to(device)
    for precision, dtype in fused.items():
        errors = {}
        for kernel in ("sdpa", "fused"):
            choose_attention(model, kernel)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                out, gradients = run(model, make_input(length, device))
            found = [error(gradients[name], expected_gradients[name]) for name in gradients]
            errors[kernel] = (error(out, expected), float(np.median(found)), max(found))
        # As close to the exact values as PyTorch's kernels in that precision.
        for ours, theirs in zip(errors["fused"], errors["sdpa"], strict=True):
            assert ours < 2 * theirs + 1e-3, (precision, errors)


class Texts:
    """Random token ids with a learnable label, as an example source."""

    target_counts = None

    def __init__(self, n=16, length=24):
        rng = np.random.default_rng(0)
        self.ids = rng.integers(5, 40, (n, length))
        self.labels = (self.ids[:, 1] > 20).astype(np.int64)
        self.lengths = np.full(n, length)

    def collate(self, indices):
        segments = np.zeros_like(self.ids[indices])
        segments[:, 0] = 2
        values = {"input_ids": self.ids[indices], "token_type_ids": segments}
        return values | {"labels": self.labels[indices]}


def make_trainer(device, precision="fp32", steps=4, name="adamw", wrap=None, output=None):
    seed_everything(0)
    config = make_config(dropout=0.1, dropatt=0.1)
    model = FunnelForSequenceClassification(config, num_labels=2).to(device)
    world = DistributedContext(0, 1, device)
    # Before the optimizer: sharding replaces the parameters.
    step_model = wrap(model) if wrap else model
    return Trainer(
        model,
        build_optimizer(model, OptimizerConfig(name=name)),
        ScheduleConfig(1e-3, steps, 0),
        TrainBatches(Texts(), BatchConfig(8)),
        TrainerConfig(steps, precision, log_steps=1),
        world,
        output,
        step_model,
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["adamw", "funnel_adamw"])
def test_training_in_half_precision(precision, name, device):
    if device.type == "cpu":
        precision = "fp32"
    trainer = make_trainer(device, precision, steps=12, name=name)
    progress = trainer.train()
    assert progress.step == 12 and progress.skipped < 6
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["adamw", "funnel_adamw"])
def test_a_step_does_not_wait_for_the_gpu(precision, name, device):
    trainer = make_trainer(device, precision if device.type == "cuda" else "fp32", name=name)
    micro_batches = next(iter(trainer.batches.stream()))
    trainer._enqueue_step(micro_batches)
    with forbid_waiting(device):
        for step in (1, 2):
            trainer._results.add(step, trainer._enqueue_step(micro_batches))
        (first,) = trainer._results.read(everything=False)
    assert first.step == 1 and math.isfinite(first.loss)


@pytest.mark.parametrize("name", ["adamw", "funnel_adamw"])
def test_a_step_without_finite_gradients_changes_nothing(name, device):
    trainer = make_trainer(device, steps=6, name=name)
    micro_batches = next(iter(trainer.batches.stream()))
    set_learning_rate(trainer.optimizer, 1e-3)
    trainer._enqueue_step(micro_batches)
    before = copy.deepcopy((trainer.model.state_dict(), trainer.optimizer.state_dict()))
    norm = trainer._enqueue_step([(micro_batches[0][0], math.nan)])[0]
    after = trainer.model.state_dict(), trainer.optimizer.state_dict()
    assert torch.isnan(norm)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    trainer._enqueue_step(micro_batches)
    assert not torch.equal(next(iter(after[0].values())), next(iter(before[0].values())))


@contextlib.contextmanager
def forbid_waiting(device):
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_resumed_training_equals_training_in_one_go(tmp_path, device):
    def train(path, steps=None, resume=False):
        trainer = make_trainer(device, steps=6)
        trainer.config = TrainerConfig(6, log_steps=1, save_steps=3)
        trainer.output = directory_output(path, trainer.model)
        if resume:
            directory = trainer.output.directory
            weights = torch.load(directory.last / "model.pt", map_location=device)
            trainer.model.load_state_dict(weights)
            trainer.restore(directory.load_state())
        stream = trainer.batches.stream
        trainer.batches.stream = lambda first: itertools.islice(stream(first), steps)
        trainer.train()
        return trainer

    complete = train(tmp_path / "complete")
    train(tmp_path / "parts", steps=3)
    resumed = train(tmp_path / "parts", resume=True)
    assert resumed.progress.step == 6
    for ours, expected in zip(resumed.model.parameters(), complete.model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_fused_optimizer_equals_the_plain_one(device):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = FunnelModel(make_config()).to(device)
        optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1, layer_decay_rate=0.9))
        assert optimizer.defaults["fused"]
        if not fused:
            groups = [dict(group, fused=None, foreach=False) for group in optimizer.param_groups]
            optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        for _ in range(3):
            set_learning_rate(optimizer, 1e-2)
            model(make_input(24, device)[0]).last_hidden_state.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append([p.detach() for p in model.parameters()])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("correct", [True, False])
def test_funnel_adamw_in_one_kernel_equals_the_plain_one(correct, device):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = FunnelModel(make_config()).to(device)
        optimizer = FunnelAdamW(
            model.parameters(), 1e-3, weight_decay=0.1, correct_bias=correct, fused=fused
        )
        for _ in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def shard(model):
    """Shard a model as training/fsdp.py does, which refuses to do so for one process."""
    from torch.distributed.fsdp import fully_shard

    for module in list(model.modules()):
        if isinstance(module, FunnelLayer):
            fully_shard(module)
    fully_shard(model)
    return model


@pytest.mark.parametrize("wrap", [torch.nn.parallel.DistributedDataParallel, shard])
def test_one_process_with_nccl(wrap, tmp_path, device):
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda" and not dist.is_nccl_available():
        pytest.skip("no NCCL")
    alone = make_trainer(device)
    alone.train()
    dist.init_process_group(backend, f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        trainer = make_trainer(device, wrap=wrap)
        assert trainer.train().skipped == 0
        for ours, expected in zip(
            trainer.model.parameters(), alone.model.parameters(), strict=True
        ):
            torch.testing.assert_close(full_tensor(ours), expected, rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()


def test_the_program_finds_the_gpu(device):
    with start(DistributedConfig(device_id=0 if device.type == "cuda" else -1)) as world:
        assert world.device.type == device.type
