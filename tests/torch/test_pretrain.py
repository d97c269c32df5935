"""Pretraining steps: FLOPs, peaks of devices, recomputed layers, import of Adam's moments."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from funnel.flops import pretraining_cost
from funnel.utils.errors import CheckpointError
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining
from funnel_torch.models.layers import recompute_layers
from funnel_torch.models.weight_mapping import export_tensors
from funnel_torch.training.mfu import peak_tflops
from funnel_torch.training.optimizer_import import global_step, read_adam_state
from pretraining_cases import CONFIGS, LENGTH, PLAIN, TARGETS, masked_batch, noise_for


@pytest.mark.parametrize("name", ["plain", "projected", "no_decoder"])
@pytest.mark.parametrize("head", [MLMPretraining, ElectraPretraining])
def test_cost_agrees_with_the_counter(name, head):
    model, batch = head(CONFIGS[name]), masked_batch()
    generator = model.generator.config if head is ElectraPretraining else None
    records = len(batch.target)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.train()(batch)
    cost = pretraining_cost(model.config, LENGTH, TARGETS, generator, records)
    # The counter leaves out the discriminator's last product, with a vector.
    last = 2 * records * LENGTH * model.config.d_model if generator else 0
    assert counter.get_total_flops() == pytest.approx(records * cost - last)


def test_recomputed_layers_change_no_number():
    config = PLAIN.replace(dropout=0.1, dropatt=0.1)
    torch.manual_seed(1)
    model, batch = ElectraPretraining(config).train(), masked_batch()
    results = []
    for _ in range(2):
        torch.manual_seed(2)
        model.zero_grad()
        loss = model(batch, noise_for(batch)).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        recompute_layers(model)
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


def test_layers_are_computed_twice_in_training_only():
    model, batch = MLMPretraining(PLAIN), masked_batch()
    calls = []
    recompute_layers(model)
    model.funnel.encoder.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    model.eval()(batch).loss.backward()
    assert len(calls) == 1
    model.train()(batch).loss.backward()
    assert len(calls) == 3


def test_moments_are_found_or_refused():
    model = MLMPretraining(PLAIN)
    state = {}
    for name, values in export_tensors(model).items():
        state |= {f"{name}/adam_m": values * 2, f"{name}/adam_v": values * 3}
    assert global_step(state) == 0
    assert global_step({"global_step": np.int64(7)}) == 7
    adam = read_adam_state(model, state | {"global_step": np.int64(7)})
    assert adam.step == 7
    moments = adam.moments
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(moments[name]["m"], parameter.detach() * 2)
        torch.testing.assert_close(moments[name]["v"], parameter.detach() * 3)
    first = sorted(state)[0]
    with pytest.raises(CheckpointError, match=f"1 variables, first {first}"):
        read_adam_state(model, {k: v for k, v in state.items() if k != first})


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA GeForce RTX 4090", "bf16", None),
    ],
)
def test_peaks(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda"), precision) == peak
    assert peak_tflops(torch.device("cpu"), precision) is None
