"""Released PyTorch files: round trips, files fine-tuned by the original, and unsafe pickles."""

import collections
import os
import re

import numpy as np
import pytest

from checkpoint_cases import TINY, VARIANTS, assert_same, flip, random_checkpoint, with_slots
from funnel.checkpoints import detect, load_checkpoint, save_checkpoint
from funnel.checkpoints.names import released_names
from funnel.checkpoints.torch_file import load_torch_file
from funnel.utils.errors import CheckpointError

torch = pytest.importorskip("torch")

CLASSIFIER = ("summary", "classification")
FULL = (*CLASSIFIER, "mlm", "discriminator", "generator", "squad")


def _released(checkpoint, **changes):
    """The state dict of a released file, written independently of the adapter."""
    names = released_names(checkpoint.config, "classification")
    state = collections.OrderedDict(
        (names[name], torch.tensor(values)) for name, values in checkpoint.tensors.items()
    )
    state.update({name: torch.tensor(values) for name, values in changes.items()})
    return state


def _save(tmp_path, value, config=TINY, **options):
    path = tmp_path / "model.pt"
    torch.save(value, path, **options)
    config.save_pytorch_net_config(tmp_path / "net_config.pytorch.json")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("heads", [(), CLASSIFIER, FULL], ids=["core", "classifier", "full"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tf_to_pt_to_hf_to_tf_is_bit_identical(tmp_path, variant, heads):
    config = VARIANTS[variant].replace(truncate_seq=True)
    first = random_checkpoint(config, heads)
    save_checkpoint(first, tmp_path / "tf", "tf")
    kept = save_checkpoint(load_checkpoint(tmp_path / "tf"), tmp_path / "pt", "pt")
    released = set(released_names(config, "classification"))
    assert kept == sorted(set(first.tensors) - released)
    from_pt = load_checkpoint(tmp_path / "pt")
    assert_same(from_pt.tensors, first.tensors)
    save_checkpoint(from_pt, tmp_path / "hf", "hf")
    save_checkpoint(load_checkpoint(tmp_path / "hf"), tmp_path / "again", "tf")
    last = load_checkpoint(tmp_path / "again")
    assert_same(last.tensors, first.tensors)
    if kept:  # without decoder weights its depth is not recorded
        assert from_pt.config == last.config == config


def test_the_file_has_the_released_layout(tmp_path):
    checkpoint = random_checkpoint(TINY, CLASSIFIER, decoder=False)
    config = TINY.replace(decoder_size="0")
    checkpoint.config = config
    assert save_checkpoint(checkpoint, tmp_path, "pt") == []
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "net_config.pytorch.json"]
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert isinstance(state, collections.OrderedDict)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert list(state["attn_layers.3.q_head.weight"].shape) == [12, 2, 5]
    assert list(state["attn_layers.3.post_proj.weight"].shape) == [2, 5, 12]
    assert list(state["pffn_layers.0.pffn.0.weight"].shape) == [12, 14]
    assert list(state["cls_head.3.weight"].shape) == [12, 3]
    assert "attn_layers.4.r_kernel" not in state
    wanted = _released(checkpoint)
    assert_same({n: v.numpy() for n, v in state.items()}, {n: v.numpy() for n, v in wanted.items()})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before_1.6"])
def test_a_released_file_is_read(tmp_path, zipped):
    checkpoint = random_checkpoint(TINY, decoder=False)
    path = _save(tmp_path, _released(checkpoint), _use_new_zipfile_serialization=zipped)
    assert detect(tmp_path) == ("pt", path)
    found = load_checkpoint(tmp_path)
    assert_same(found.tensors, checkpoint.tensors)
    assert found.config.decoder_size == "0" and found.metadata["kind"] == "pt"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before_1.6"])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_a_list_of_weights_and_optimizer_is_read_safely(tmp_path, optimizer, zipped):
    checkpoint = random_checkpoint(TINY, CLASSIFIER, decoder=False)
    parameter = torch.nn.Parameter(torch.ones(3))
    trained = getattr(torch.optim, optimizer)([parameter], lr=0.1)
    parameter.sum().backward()
    trained.step()
    path = _save(tmp_path, [_released(checkpoint), trained], _use_new_zipfile_serialization=zipped)
    assert_same(load_checkpoint(path).tensors, checkpoint.tensors)


def test_half_precision_and_the_prefix_of_data_parallel(tmp_path):
    checkpoint = random_checkpoint(TINY, decoder=False)
    state = {f"module.{n}": v.bfloat16() for n, v in _released(checkpoint).items()}
    found = load_checkpoint(_save(tmp_path, {"state_dict": state})).tensors
    for name, values in checkpoint.tensors.items():
        np.testing.assert_array_equal(found[name], torch.tensor(values).bfloat16().float().numpy())


def test_a_classifier_of_nn_linear_is_turned(tmp_path):
    checkpoint = random_checkpoint(TINY, CLASSIFIER, decoder=False)
    state = _released(checkpoint)
    for name in ("cls_head.0.weight", "cls_head.3.weight"):
        state[name] = state[name].T.contiguous()
    assert_same(load_checkpoint(_save(tmp_path, state)).tensors, checkpoint.tensors)


class _Unsafe:
    def __reduce__(self):
        return os.mkdir, ("was_executed",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before_1.6"])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (_Unsafe(), r"(posix|nt)\.mkdir"),
        ([{}, re.compile("x")], r"re\._compile"),
        ([{}, eval], "eval"),
        ({"w": np.float64(3)}, r"numpy\.\S+"),
    ],
    ids=["call", "regex", "builtin", "numpy"],
)
def test_other_pickles_are_refused_by_name(tmp_path, monkeypatch, value, told, zipped):
    monkeypatch.chdir(tmp_path)
    path = _save(tmp_path, value, _use_new_zipfile_serialization=zipped)
    wanted = f"^{re.escape(str(path))}: not tensors only: it refers to {told}, which is not loaded"
    with pytest.raises(CheckpointError, match=wanted):
        load_checkpoint(path)
    assert not (tmp_path / "was_executed").exists()


def test_a_pickled_module_is_refused(tmp_path):
    path = _save(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "should hold named tensors, not list"),
        (torch.ones(2), "should hold named tensors, not Tensor"),
        ({"epoch": 3}, "named tensors alone, but 'epoch' is of type int"),
        ({"w": torch.ones(2)}, r"no Funnel file: input_layer.0.lookup_table is missing \(found w"),
    ],
)
def test_files_of_other_content(tmp_path, value, told):
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(_save(tmp_path, value))


def test_names_and_shapes_are_checked_in_one_message(tmp_path):
    checkpoint = random_checkpoint(TINY, decoder=False)
    state = _released(checkpoint, surplus=np.ones(2, np.float32))
    del state["attn_layers.1.r_kernel"]
    state["pffn_layers.0.pffn.0.bias"] = torch.ones(9)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(_save(tmp_path, state))
    assert str(caught.value).endswith(
        "1 missing: model/encoder/layer_1/rel_attn/r/kernel; 1 unexpected: surplus; "
        "1 of another shape: model/encoder/layer_0/ff/layer_1/bias [9] should be [14]"
    )


def test_every_corruption_of_an_archive_is_found(tmp_path):
    state = {"w": torch.arange(50.0)}
    path = _save(tmp_path, state)
    good = path.read_bytes()
    random = np.random.default_rng(0)
    numbers = state["w"].numpy().tobytes()
    start = good.index(numbers)
    places = [*random.integers(0, len(good), 60), *range(start, start + len(numbers), 7)]
    for position in places:
        flip(path, int(position))
        try:
            found = load_torch_file(path)
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # padding, time stamps and the like
            assert_same(found, {"w": state["w"].numpy()})
        path.write_bytes(good)
    for size in (0, 3, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError, match="no PyTorch file, or corrupt"):
            load_torch_file(path)


def test_a_stale_extra_file_is_removed(tmp_path):
    save_checkpoint(random_checkpoint(TINY, ("mlm",)), tmp_path, "pt")
    assert (tmp_path / "model.extra.safetensors").exists()
    encoder = random_checkpoint(VARIANTS["encoder_only"], seed=1)
    assert save_checkpoint(encoder, tmp_path, "pt") == []
    assert_same(load_checkpoint(tmp_path).tensors, encoder.tensors)


def test_optimizer_state_is_saved_in_the_extra_file(tmp_path):
    checkpoint = with_slots(random_checkpoint(TINY))
    save_checkpoint(checkpoint, tmp_path / "m", "pt")
    found = load_checkpoint(tmp_path / "m", with_optimizer=True)
    assert_same(found.optimizer, checkpoint.optimizer)
    assert load_checkpoint(tmp_path / "m").optimizer == {}


def test_two_files_in_one_directory_must_be_told_apart(tmp_path):
    checkpoint = random_checkpoint(VARIANTS["encoder_only"])
    for name in ("a.pt", "b.pt"):
        save_checkpoint(checkpoint, tmp_path / name, "pt")
    with pytest.raises(CheckpointError, match=r"several checkpoints \(a.pt, b.pt\); name one"):
        load_checkpoint(tmp_path)
    assert_same(load_checkpoint(tmp_path / "b.pt").tensors, checkpoint.tensors)


def test_the_pytorch_weights_of_a_hugging_face_directory(tmp_path):
    from funnel.checkpoints.safetensors_file import read_safetensors

    checkpoint = random_checkpoint(TINY, ("discriminator",))
    save_checkpoint(checkpoint, tmp_path, "hf")
    tensors = read_safetensors(tmp_path / "model.safetensors")[0]
    state = {name: torch.tensor(values) for name, values in tensors.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert detect(tmp_path) == detect(tmp_path / "pytorch_model.bin") == ("hf", tmp_path)
    assert_same(load_checkpoint(tmp_path).tensors, checkpoint.tensors)
