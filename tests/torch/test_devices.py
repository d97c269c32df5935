"""Choice of the device, and that nothing needs numbers which Apple's GPUs lack.

No such GPU is here: other devices stand in for it.
"""

import contextlib
import os
import re
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from funnel.cli.flags import parse_settings
from funnel.config.model import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig
from funnel.utils.errors import ConfigError, RunError
from funnel_torch import (
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.cli import processes
from funnel_torch.cli.processes import distributed_config
from funnel_torch.cli.settings.classifier import ClassifierSettings
from funnel_torch.kernels import float64
from funnel_torch.models.initialization import skip_init
from funnel_torch.training.devices import check_precision, choose_device, is_accelerator
from funnel_torch.training.distributed import DistributedConfig, DistributedContext, start
from funnel_torch.training.optimizer import build_optimizer
from pretraining_cases import electra, masked_batch, noise_for
from repo_layout import ROOT

pytestmark = pytest.mark.slow

CONFIG = ModelConfig(
    vocab_size=12, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="1x2_1",
    decoder_size="1",
)  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """A machine with an Apple GPU, or with two of CUDA."""

    def become(kind):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * (kind == "cuda"))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        monkeypatch.setattr(torch.backends.mps, "is_built", lambda: kind == "mps")

    return become


@pytest.mark.parametrize(
    ("kind", "device_id", "name", "expected"),
    [
        ("cpu", 0, "auto", "cpu"),
        ("mps", 0, "auto", "cpu"),
        ("mps", 0, "mps", "mps"),
        ("mps", 0, "MPS", "mps"),
        ("mps", 0, "cpu", "cpu"),
        ("cuda", 1, "auto", "cuda:1"),
        ("cuda", 1, "cuda", "cuda:1"),
        ("cuda", 0, "cuda:1", "cuda:1"),
        ("cuda", -1, "auto", "cpu"),
        ("cuda", 0, "cpu", "cpu"),
    ],
)
def test_the_device_that_is_asked_for(machine, kind, device_id, name, expected):
    machine(kind)
    assert choose_device(device_id, name) == torch.device(expected)
    assert is_accelerator(device_id, name) == (expected != "cpu")


def test_auto_says_how_to_use_an_apple_gpu(machine, caplog):
    machine("mps")
    with caplog.at_level("INFO"):
        choose_device(0)
    assert "--device=mps selects Apple's GPU" in caplog.text


@pytest.mark.parametrize(
    ("kind", "device_id", "name", "error", "message"),
    [
        ("cpu", 0, "mps", RunError, "Apple's GPU is needed, but this PyTorch is built without it"),
        ("cpu", 0, "cuda", RunError, "finds no CUDA GPU"),
        ("cuda", 0, "cuda:2", RunError, "GPUs 0 to 1"),
        ("cuda", 0, "tpu", ConfigError, "should be auto, cpu, cuda, cuda:N or mps"),
        ("cuda", 0, "cuda:x", ConfigError, "should be auto"),
        ("mps", 0, "mps:1", ConfigError, "should be auto"),
        ("mps", -1, "mps", ConfigError, "device_id=-1, the CPU, contradict each other"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(machine, kind, device_id, name, error, message):
    machine(kind)
    with pytest.raises(error, match=message):
        choose_device(device_id, name)


def test_programs_hand_the_flag_on(monkeypatch):
    monkeypatch.setattr("sys.argv", ["classifier.py", "--device=mps"])
    settings = parse_settings(ClassifierSettings, "")
    assert distributed_config(settings, {}).device == "mps"
    launched = {"RANK": "1", "WORLD_SIZE": "2"}
    assert distributed_config(settings, launched).device == "mps"


@pytest.mark.parametrize(("kind", "calls"), [("cpu", 1), ("meta", 0)])
def test_programs_on_a_cpu_keep_freed_memory(kind, calls, monkeypatch):
    asked = []
    monkeypatch.setattr(processes, "keep_freed_memory", asked.append)
    world = DistributedContext(0, 1, torch.device(kind))
    monkeypatch.setattr(processes, "start", lambda config: contextlib.nullcontext(world))
    settings = parse_settings(ClassifierSettings, "", [])
    with processes.start_processes(settings) as found:
        assert found is world
    assert asked == [os.environ] * calls


def test_one_device_serves_one_process(machine):
    machine("mps")
    config = DistributedConfig(0, 2, 0, device="mps")
    with pytest.raises(RunError, match="cannot serve several processes"), start(config):
        pass


def test_bfloat16_needs_a_recent_system(monkeypatch):
    device = torch.device("mps")
    for is_recent in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_, r=is_recent: r)
        check_precision(device, "fp16")
        if is_recent:
            check_precision(device, "bf16")
        else:
            with pytest.raises(RunError, match="bf16 needs macOS 14"):
                check_precision(device, "bf16")
    check_precision(torch.device("cpu"), "bf16")


class NoFloat64(TorchDispatchMode):
    """Fails where Apple's GPUs do: they have no float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{func} makes a float64 tensor")
        return out


def test_the_simulation_notices_float64():
    with NoFloat64(), pytest.raises(TypeError, match="makes a float64 tensor"):
        torch.ones(2, device="meta").double()


HEADS = {
    FunnelForSequenceClassification: ((2, 8), (2,)),
    FunnelForMultipleChoice: ((2, 3, 8), (2,)),
    FunnelForTokenClassification: ((2, 8), (2, 8)),
    FunnelForMaskedLM: ((2, 8), (2, 8)),
    FunnelForPreTraining: ((2, 8), (2, 8)),
}


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@pytest.mark.parametrize(
    ("device", "precision"), [("meta", None), ("cpu", None), ("cpu", torch.bfloat16)], ids=str
)
def test_a_training_step_needs_no_float64(head, device, precision):
    """On "meta", which has no values, code takes the branches of a device that is none it knows."""
    shape, labels = HEADS[head]
    with skip_init(), torch.device(device):
        model = head(CONFIG).train()
    ids, targets = (torch.ones(s, dtype=torch.long, device=device) for s in (shape, labels))
    with NoFloat64():
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            output = model(ids, attention_mask=ids, token_type_ids=ids, labels=targets)
        output.loss.backward()
        if device != "meta":  # whose optimizer reads the number of steps
            for name in ("adamw", "funnel_adamw"):
                build_optimizer(model, OptimizerConfig(name=name)).step()
    assert output.loss.device.type == device
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_sums_of_pretraining_leave_a_device_without_float64(monkeypatch):
    """On the CPU: without float64 "there", the values are the same."""
    model, batch = electra(), masked_batch((17, 13, 5, 17, 16, 17))
    output = model(batch, noise_for(batch))
    expected = output.sums.vector()
    monkeypatch.setattr(float64, "has_float64", lambda device: False)
    found = output.sums.vector()
    assert found.dtype == torch.float64 and found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_float64_is_made_in_one_place():
    """Tensors become float64 through kernels/float64.py, which knows the devices."""
    made = re.compile(r"\.double\(\)|torch\.(float64|double)\b")
    for path in (ROOT / "pytorch" / "funnel_torch").rglob("*.py"):
        lines = path.read_text("utf-8").splitlines()
        found = [line for line in lines if made.search(line)]
        if path.name != "float64.py":
            # With the device that has such numbers in the same statement.
            text = path.read_text("utf-8")
            assert len(found) == len(re.findall(r"float64,\s*device=(place|float64_device)", text))


def test_random_states_of_the_gpu_are_kept(monkeypatch):
    from funnel_torch.training import rng

    states = []
    fake = SimpleNamespace(get_rng_state=lambda: "state", set_rng_state=states.append)
    monkeypatch.setattr(torch, "mps", fake)
    device = torch.device("mps")
    rng.set_rng_state(rng.get_rng_state(device), device)
    assert states == ["state"]
