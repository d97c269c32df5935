"""PyTorch files whose tensors are no plain arrays, or that are wrapped: one clear line, or read."""

import io
import warnings
import zipfile

import numpy as np
import pytest

from checkpoint_cases import TINY, assert_same, random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.checkpoints.safetensors_file import read_safetensors
from funnel.checkpoints.torch_file import load_torch_file
from funnel.utils.errors import CheckpointError

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

BASE = torch.arange(6.0).reshape(2, 3)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # prototype features
    ODD = {
        "sparse": (BASE.to_sparse(), "sparse"),
        "csr": (BASE.to_sparse_csr(), "sparse"),
        "quantized": (torch.quantize_per_tensor(BASE, 0.1, 0, torch.qint8), "quantized"),
        "nested": (torch.nested.nested_tensor([BASE, BASE[:1]]), "nested"),
        "jagged": (torch.nested.nested_tensor([BASE, BASE], layout=torch.jagged), "nested"),
        "meta": (BASE.to("meta"), "no values: it is on the device 'meta'"),
        "complex": (torch.complex(BASE, BASE), "complex"),
        "conjugate": (torch.complex(BASE, BASE).conj(), "complex"),
        "bits": (torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "holds no numbers"),
        "expanded": (torch.ones(1).expand(10**6, 10**6), "larger than its storage"),
        "expanded_half": (torch.ones(1).half().expand(10**6, 10**6), "larger than its storage"),
    }


@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_is_no_plain_array(tmp_path, kind):
    value, told = ODD[kind]
    path = tmp_path / "model.pt"
    torch.save({"fine": BASE, "odd": value}, path)
    with pytest.raises(CheckpointError, match=f"model.pt: odd .*{told}") as caught:
        load_torch_file(path)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_plain_after_all(tmp_path):
    path = tmp_path / "model.pt"
    values = {
        "negative_view": torch._neg_view(BASE),
        "transposed": BASE.t(),
        "expanded": BASE[:, :1].expand(2, 3),
        "parameter": torch.nn.Parameter(BASE),
        "float8": BASE.to(torch.float8_e4m3fn),
        "integers": torch.ones(3, dtype=torch.uint16),
    }
    torch.save(values, path)
    found = load_torch_file(path)
    for name, value in values.items():
        wanted = value.detach().float() if value.is_floating_point() else value
        np.testing.assert_array_equal(found[name], wanted.resolve_neg().numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["tf", "hf", "pt"])
def test_weights_that_are_not_finite_are_named(tmp_path, kind, bad):
    checkpoint = random_checkpoint(TINY, ("mlm",))
    name = "model/encoder/layer_1/ff/layer_1/bias"
    checkpoint.tensors[name][3] = bad
    save_checkpoint(checkpoint, tmp_path / "m", kind)
    with pytest.raises(CheckpointError, match=f"NaN or infinite values in {name}: "):
        load_checkpoint(tmp_path / "m")


def test_numbers_beyond_float32_are_not_finite(tmp_path):
    checkpoint = random_checkpoint(TINY)
    name = "model/input/layer_norm/beta"
    checkpoint.tensors[name] = np.full(TINY.d_embed, 1e300)
    save_checkpoint(checkpoint, tmp_path / "m", "tf")
    with pytest.raises(CheckpointError, match=f"NaN or infinite values in {name}: "):
        load_checkpoint(tmp_path / "m")
    # A sum beyond float32 of numbers within it is none of that.
    checkpoint.tensors[name] = np.full(TINY.d_embed, 3e38, np.float32)
    save_checkpoint(checkpoint, tmp_path / "m", "tf")
    assert_same(load_checkpoint(tmp_path / "m").tensors, checkpoint.tensors)


def test_a_repacked_archive_is_refused_before_it_is_expanded(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, buffer)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in source.infolist():
            new.writestr(entry.filename, source.read(entry))
    with pytest.raises(CheckpointError, match="is compressed; torch.save does not"):
        load_torch_file(path)


def _wrap(kind, state):
    if kind == "lightning":
        state = {f"model.{name}": value for name, value in state.items()}
        return {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {}}]}
    if kind == "compiled in DDP":
        return {"model": {f"module._orig_mod.{name}": v for name, v in state.items()}, "step": 7}
    if kind == "plain":
        return state
    nested = {}
    for name, value in state.items():
        *parts, last = name.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return {"model_state_dict": nested}


@pytest.mark.parametrize("kind", ["plain", "lightning", "compiled in DDP", "nested"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "epoch3.pt"])
def test_their_names_in_a_pickle(tmp_path, kind, file):
    checkpoint = random_checkpoint(TINY, ("discriminator",))
    save_checkpoint(checkpoint, tmp_path, "hf")
    theirs = read_safetensors(tmp_path / "model.safetensors")[0]
    state = {name: torch.tensor(values) for name, values in theirs.items()}
    (tmp_path / "model.safetensors").unlink()
    torch.save(_wrap(kind, state), tmp_path / file)
    for path in (tmp_path, tmp_path / file):
        found = load_checkpoint(path)
        assert_same(found.tensors, checkpoint.tensors)
        assert found.metadata["architecture"] == "FunnelForPreTraining"


def test_the_pickle_next_to_safetensors_is_read_if_it_is_named(tmp_path):
    checkpoint = random_checkpoint(TINY, ("summary", "classification"), decoder=False)
    save_checkpoint(checkpoint, tmp_path, "hf")
    theirs = read_safetensors(tmp_path / "model.safetensors")[0]
    # Another model, and without the head that config.json states.
    other = {
        name.removeprefix("funnel."): torch.tensor(values) + 1
        for name, values in theirs.items()
        if name.startswith("funnel.")
    }
    torch.save(other, tmp_path / "pytorch_model.bin")
    name = "model/input/word_embedding/lookup_table"
    wanted = checkpoint.tensors[name]
    for path in (tmp_path, tmp_path / "model.safetensors"):
        np.testing.assert_array_equal(load_checkpoint(path).tensors[name], wanted)
    found = load_checkpoint(tmp_path / "pytorch_model.bin").tensors
    np.testing.assert_array_equal(found[name], wanted + 1)
    assert "model/classification/logit/kernel" not in found


@pytest.mark.slow
def test_a_model_on_the_meta_device_runs_in_training_mode():
    import funnel_torch as ft

    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    for attention in ("rel_shift", "factorized", "null"):
        config = TINY.replace(rel_attn_type=attention)
        for head in (ft.FunnelModel, ft.FunnelForSequenceClassification, ft.FunnelForMaskedLM):
            model = head(config).to("meta")
            for training in (True, False):
                output = model.train(training)(ids, torch.ones_like(ids), ids)
                assert all(value.is_meta for value in output if torch.is_tensor(value))


def test_a_sequence_too_short_for_every_pooling_is_not_copied_more_often_than_needed():
    from funnel_torch.models.modeling import upsample

    # 16 poolings would repeat the only position 65,536 times.
    config = TINY.replace(block_size="_".join(["1"] * 17), separate_cls=False)
    assert config.upsample_factor == 65536
    found = upsample(torch.ones(1, 1, 4), 5, config)
    assert found.shape == (1, 5, 4) and found.untyped_storage().nbytes() <= 5 * 4 * 4


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_weights_of_8_bits_in_safetensors_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    save_file({"plain": BASE, "small": BASE.to(getattr(torch, kind))}, path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: small holds F8_.* float32"):
        read_safetensors(path)
    save_file({"large": BASE.double()}, path)
    assert read_safetensors(path)[0]["large"].dtype == "float64"
