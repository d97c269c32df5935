"""Implementations of one computation: each can be forced, gives the same values, and is pinned."""

from __future__ import annotations

import logging

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from funnel import ModelConfig
from funnel.utils.errors import ConfigError
from funnel_torch import FunnelModel
from funnel_torch.kernels import choices as module
from funnel_torch.kernels import linear as linears
from funnel_torch.kernels import query_chunks
from funnel_torch.kernels.choices import KernelChoices, choices
from funnel_torch.kernels.config import KernelSettings
from funnel_torch.kernels.dropout import Dropout
from funnel_torch.kernels.linear import linear, linear_gelu
from funnel_torch.kernels.sharing import share_choices
from funnel_torch.training.distributed import DistributedContext
from trainer_cases import directory_output, make

OPTIONS = ("default", "other")


@pytest.fixture(autouse=True)
def _small_samples(monkeypatch):
    """Measure everything, however small, on small samples."""
    monkeypatch.setattr(linears, "_MIN_MULTIPLY_ADDS", 1)
    monkeypatch.setattr(linears, "_MIN_GELU_MULTIPLY_ADDS", 1)
    monkeypatch.setattr(linears, "_SAMPLE_MULTIPLY_ADDS", 2**10)
    monkeypatch.setattr(query_chunks, "_MIN_MULTIPLY_ADDS", 1)


def set_times(monkeypatch, *seconds):
    """Let every comparison end with these times, of the options in order."""
    monkeypatch.setattr(module, "_time", lambda runs: list(seconds[: len(runs)]))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_model(dropatt=0.0):
    torch.manual_seed(0)
    config = ModelConfig(
        block_size="2_1", decoder_size="1", d_model=16, d_embed=16, n_head=2, d_head=8,
        d_inner=32, vocab_size=50, dropout=0.0, dropatt=dropatt, init_std=0.3,
    )  # fmt: skip
    return FunnelModel(config)


@pytest.mark.parametrize("backend", ["mkl", "onednn", "auto"])
def test_each_library_gives_the_same_values_and_gradients(backend):
    choices.configure(KernelSettings(linear_backend=backend))
    inputs = [random(3, 5, 24), random(10, 24, seed=1), random(10, seed=2)]
    results = []
    for function in (linear, F.linear):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    # A product and its two gradients are three classes of shapes; near ties are measured once.
    assert len(choices.made()) == (4 if backend == "auto" and linears.has_choice() else 0)


@pytest.mark.parametrize("backend", ["mkl", "onednn"])
def test_a_sum_within_the_product(backend):
    choices.configure(KernelSettings(linear_backend=backend))
    layer, dropout = linears.Linear(24, 10), Dropout(0.5).eval()
    x, other = random(3, 5, 24), random(3, 5, 10, seed=1)
    expected = other + F.linear(x, layer.weight, layer.bias)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = linears.add_residual(layer, x, other, dropout)
    assert counter.get_total_flops() == 2 * 15 * 24 * 10
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x, residual=other), expected)  # with gradients
    plain = torch.nn.Linear(24, 10)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(linears.add_residual(plain, x, other, dropout), expected)
    assert (linears.add_residual(layer, x, other, dropout.train()) == other).any()


def test_the_forced_library_is_the_one_that_runs(monkeypatch):
    if not linears.has_choice():
        pytest.skip("PyTorch without oneDNN")
    called = []
    original = linears._onednn_linear
    monkeypatch.setattr(linears, "_onednn_linear", lambda *a: called.append(len(a)) or original(*a))
    x, weight = random(3, 8), random(4, 8)
    for backend, count in (("mkl", 0), ("onednn", 2)):
        choices.configure(KernelSettings(linear_backend=backend))
        linear(x, weight)
        linear_gelu(x, weight)
        assert len(called) == count


@pytest.mark.parametrize("fastest", range(3))
def test_gelu_within_the_product_or_after_it(fastest, monkeypatch):
    if not linears.has_choice():
        pytest.skip("PyTorch without oneDNN")
    choices.configure(KernelSettings())
    monkeypatch.setattr(linears, "_choose_usual", lambda: "onednn")
    set_times(monkeypatch, *(1.0 if index == fastest else 2.0 for index in range(3)))
    x, weight, bias = random(6, 8), random(12, 8, seed=1), random(12, seed=2)
    expected = F.gelu(F.linear(x, weight, bias), approximate="tanh")
    torch.testing.assert_close(linear_gelu(x, weight, bias), expected, rtol=1e-5, atol=1e-6)
    assert list(choices.made().values()) == [("onednn", "mkl", "onednn, then GELU")[fastest]]


@pytest.mark.parametrize(("of_typical", "usual"), [((1.0, 0.9), "onednn"), ((1.0, 1.1), "mkl")])
def test_near_ties_go_to_the_library_that_is_faster_for_a_typical_layer(
    of_typical, usual, monkeypatch
):
    if not linears.has_choice():
        pytest.skip("PyTorch without oneDNN")
    choices.configure(KernelSettings())
    times = iter([of_typical, (1.0, 0.95)])
    monkeypatch.setattr(module, "_time", lambda runs: next(times))
    linear(random(6, 8), random(12, 8, seed=1))
    assert list(choices.made().values()) == [usual, usual]


def test_the_typical_layer_is_measured_with_its_gradients(monkeypatch):
    if not linears.has_choice():
        pytest.skip("PyTorch without oneDNN")
    monkeypatch.setattr(linears, "_TYPICAL_SIZES", (6, 10))
    choices.configure(KernelSettings())
    shapes = []
    for library, function in linears._LINEAR.items():

        def record(x, weight, bias, function=function):
            shapes.append(x.shape)
            return function(x, weight, bias)

        monkeypatch.setitem(linears._LINEAR, library, record)
    assert linears._choose_usual() in ("mkl", "onednn")
    free = linears._MIN_SAMPLE * torch.get_num_threads()
    assert set(shapes) == {(free, 6), (6, free)}
    assert len(shapes) % 6 == 0


def test_samples_are_laid_out_as_the_operands():
    names = ("onednn", "mkl")
    for is_flipped in ((False, False), (False, True), (True, True)):
        runs = linears._samples((6, 10), is_flipped, False, names)
        x, weight, _ = runs[0].args
        # The first size is that of the rows where x is flipped, else of the inputs.
        assert (x.shape[0] if is_flipped[0] else x.shape[1], len(weight)) == (6, 10)
        assert (x.stride(0) == 1, weight.stride(0) == 1) == is_flipped
        if linears.has_choice():
            torch.testing.assert_close(*(run() for run in runs))


@pytest.mark.parametrize(
    ("default", "other", "best", "calls"),
    [
        # Clear after two rounds; nothing is measured further.
        ([9, 1, 1], [9, 2, 2], [1, 2], 3),
        # Two calls with page faults do not make the other one win.
        ([9, 5, 5, 1], [9, 2, 2, 2], [1, 2], 4),
        ([9, 2, 2, 2], [9, 1, 1, 1], [2, 1], 7),
    ],
)
def test_another_than_the_default_has_to_win_against_several_calls(
    default, other, best, calls, monkeypatch
):
    now, counts = [0.0], [0, 0]

    def make(index, seconds):
        def run():
            now[0] += seconds[min(counts[index], len(seconds) - 1)]
            counts[index] += 1

        return run

    monkeypatch.setattr(module, "_clock", lambda: lambda: now[0])
    assert module._time([make(0, default), make(1, other)]) == best
    assert counts == [calls, calls]


@pytest.mark.parametrize("chunk", ["1", "5", "64", "auto"])
def test_every_chunk_gives_the_same_values(chunk):
    model, ids = small_model().eval(), torch.arange(21)[None] % 50
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        choices.configure(KernelSettings("mkl", chunk))
        torch.testing.assert_close(model(ids).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", ["auto", "8"])
def test_defaults_of_pytorch_do_not_matter(chunk):
    """Measuring, attention in parts and dropout make tensors of their own."""
    choices.configure(KernelSettings(attention_chunk=chunk))
    model, ids = small_model(dropatt=0.1), torch.arange(150)[None] % 50
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            with torch.no_grad():
                hidden = model.eval()(ids).last_hidden_state
            model.train()(ids).last_hidden_state.sum().backward()
    finally:
        torch.set_default_dtype(before)
    assert hidden.dtype == torch.float32 and hidden.isfinite().all()


def test_dropout_is_that_of_a_pass_with_gradients(monkeypatch):
    """Reentrant checkpointing computes a layer without gradients first, then with them."""
    choices.configure(KernelSettings())
    set_times(monkeypatch, 3.0, 2.0, 1.0)
    model, ids = small_model(dropatt=0.3).train(), torch.arange(300)[None] % 50
    results = []
    for with_gradients in (True, False):
        torch.manual_seed(1)
        with torch.set_grad_enabled(with_gradients):
            results.append(model(ids).last_hidden_state)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_chunks_are_measured_in_inference_only(monkeypatch):
    choices.configure(KernelSettings())
    monkeypatch.setattr(query_chunks, "_MAX_SAMPLE", 32)
    set_times(monkeypatch, 3.0, 2.0, 1.0)
    q = random(2, 1, 300, 4)
    assert query_chunks.query_chunk(q, 128) == 256
    assert query_chunks.query_chunk(q[:, :, :128], 128) == 128
    assert query_chunks.query_chunk(q.double(), 128) == 128
    assert query_chunks.query_chunk(q.clone().requires_grad_(), 128) == 128
    assert list(choices.made().values()) == ["256"]
    # The sample is what the model computes, in any chunks.
    sample = query_chunks._sample(32, 4, 1)
    parts = [torch.cat(query_chunks._attend(sample, size), 2) for size in (7, 32)]
    torch.testing.assert_close(*parts)


@pytest.mark.parametrize(
    ("seconds", "expected"), [((1.0, 0.96), 0), ((1.0, 0.9), 1), ((1.0, 2.0), 0)]
)
def test_the_default_stays_unless_another_is_clearly_faster(seconds, expected, monkeypatch, caplog):
    own = KernelChoices()
    set_times(monkeypatch, *seconds)
    with caplog.at_level(logging.DEBUG, logger="funnel_torch"):
        for _ in range(2):
            assert own.choose("shape", OPTIONS, lambda: [bool, bool]) == OPTIONS[expected]
    # Measured and logged once.
    (message,) = caplog.messages
    assert message.startswith(f"shape: {OPTIONS[expected]} (default 1000.00 ms, other ")


def test_the_slower_one_loses():
    own = KernelChoices()
    matrix = torch.ones(200, 200)
    slow, fast = (lambda: [matrix @ matrix for _ in range(20)]), (lambda: matrix[:9] @ matrix)
    assert own.choose("shape", OPTIONS, lambda: [slow, fast]) == "other"
    assert own.choose("turned", OPTIONS, lambda: [fast, slow]) == "default"


def test_measuring_leaves_no_trace():
    choices.configure(KernelSettings())
    x, weight = random(16, 24), random(10, 24).requires_grad_()
    torch.manual_seed(7)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 16 * 24 * 10
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


def test_small_products_are_not_measured(monkeypatch):
    choices.configure(KernelSettings())
    monkeypatch.setattr(linears, "_MIN_MULTIPLY_ADDS", 2**25)
    monkeypatch.setattr(query_chunks, "_MIN_MULTIPLY_ADDS", 2**25)
    out = small_model()(torch.zeros(2, 200, dtype=torch.long)).last_hidden_state
    out.sum().backward()
    assert not choices.made()


def test_a_resumed_run_takes_the_choices_of_its_checkpoint(tmp_path, monkeypatch):
    choices.configure(KernelSettings(attention_chunk="32"))
    set_times(monkeypatch, 2.0, 1.0)
    choices.choose("shape", OPTIONS, lambda: [bool, bool])
    trainer = make()
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    trainer.save()
    saved = trainer.output.directory.load_state()

    choices.clear()
    choices.configure(KernelSettings())
    set_times(monkeypatch, 1.0, 2.0)
    make().restore(saved)
    assert choices.choose("shape", OPTIONS, lambda: [bool, bool]) == "other"
    assert choices.settings == KernelSettings("auto", "32")
    # A checkpoint of an earlier version has none.
    del saved["kernels"]
    make().restore(saved)


def test_settings_precede_the_checkpoint_and_unknown_values_are_left_out(caplog):
    own = KernelChoices()
    own.configure(KernelSettings(linear_backend="mkl"))
    own.restore({"linear_backend": "onednn", "attention_chunk": "64", "made": {"shape": "gone"}})
    assert own.settings == KernelSettings("mkl", "64")
    assert "--linear_backend=mkl: the run had onednn before" in caplog.text
    assert "--attention_chunk" not in caplog.text
    # An implementation that is not there (another PyTorch) is chosen again.
    assert own.choose("shape", OPTIONS, lambda: [bool, bool]) in OPTIONS
    own.restore({"attention_chunk": "many", "made": 3})
    own.configure(KernelSettings())
    own.restore({"attention_chunk": "many", "linear_backend": 7, "made": {"shape": 3}})
    assert own.settings == KernelSettings() and "not used" in caplog.text


class TwoProcesses(DistributedContext):
    """One of two processes; the others receive what rank 0 sent."""

    sent: list = []  # noqa: RUF012

    def broadcast(self, value):
        if self.is_rank_zero:
            self.sent[:] = [value]
        return self.sent[0]


def test_rank_zero_chooses_for_all(monkeypatch):
    monkeypatch.setattr("funnel_torch.kernels.sharing._MIN_ENTRIES", 512)
    model, cpu = small_model(), torch.device("cpu")
    choices.configure(KernelSettings())
    set_times(monkeypatch, 1.0, 2.0, 3.0)
    share_choices(model, TwoProcesses(0, 2, cpu))
    made = choices.made()
    if linears.has_choice():
        assert set(made.values()) == {"mkl"} and len(made) > 8
    choices.clear()
    choices.configure(KernelSettings())
    set_times(monkeypatch, 2.0, 1.0, 3.0)
    share_choices(model, TwoProcesses(1, 2, cpu))
    model(torch.zeros(2, 64, dtype=torch.long)).last_hidden_state.sum().backward()
    # Everything large was decided; the rest takes the default and is not measured.
    assert choices.made() == made
    choices.clear()
    share_choices(model, DistributedContext(0, 1, cpu))
    assert not choices.made()


@pytest.mark.parametrize(
    "wrong", [{"linear_backend": "blas"}, {"attention_chunk": "0"}, {"attention_chunk": "many"}]
)
def test_wrong_settings(wrong):
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value}: "):
        KernelSettings(**wrong)
