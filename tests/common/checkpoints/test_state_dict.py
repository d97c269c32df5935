"""Weights from elsewhere: prefixes of wrappers in safetensors, single files, shards."""

import json

import numpy as np
import pytest

from checkpoint_cases import TINY, assert_same, random_checkpoint
from funnel.checkpoints import detect, load_checkpoint, save_checkpoint
from funnel.checkpoints.names import released_names
from funnel.checkpoints.safetensors_file import read_safetensors, write_safetensors
from funnel.checkpoints.state_dict import open_containers, strip_wrappers
from funnel.utils.errors import CheckpointError

HEADS = ("summary", "classification")
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.encoder_q.",
    "_forward_module.student.",
)


@pytest.fixture
def saved(tmp_path):
    """A directory in the Hugging Face layout, its checkpoint, and the tensors of its file."""
    checkpoint = random_checkpoint(TINY, HEADS, decoder=False)
    save_checkpoint(checkpoint, tmp_path / "hf", "hf")
    tensors = read_safetensors(tmp_path / "hf/model.safetensors")[0]
    return tmp_path / "hf", checkpoint, {name: np.array(v) for name, v in tensors.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_every_name(saved, prefix):
    folder, checkpoint, tensors = saved
    wrapped = {prefix + name: values for name, values in tensors.items()}
    write_safetensors(folder / "model.safetensors", wrapped)
    assert_same(load_checkpoint(folder).tensors, checkpoint.tensors)


def test_a_wrapper_around_a_part_only(saved):
    """torch.compile, FSDP or activation checkpointing of the body or of single layers."""
    folder, checkpoint, tensors = saved
    compiled = {name.replace("funnel.", "funnel._orig_mod.", 1): v for name, v in tensors.items()}
    write_safetensors(folder / "model.safetensors", compiled)
    assert_same(load_checkpoint(folder).tensors, checkpoint.tensors)
    layers = {
        name.replace("blocks.0.0.", "blocks.0.0._checkpoint_wrapped_module."): values
        for name, values in tensors.items()
    }
    write_safetensors(folder / "model.safetensors", layers)
    assert_same(load_checkpoint(folder).tensors, checkpoint.tensors)


def test_shards_are_unwrapped_together(saved):
    folder, checkpoint, tensors = saved
    names = sorted(tensors)
    files = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, part in files.items():
        write_safetensors(folder / file, {f"module.{name}": tensors[name] for name in part})
    mapping = {f"module.{name}": file for file, part in files.items() for name in part}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    assert_same(load_checkpoint(folder).tensors, checkpoint.tensors)
    assert_same(load_checkpoint(folder / "b.safetensors").tensors, checkpoint.tensors)


def test_a_single_file_is_the_one_that_is_read(saved):
    """Not the standard file next to it, which is another model's."""
    folder, _, tensors = saved
    other = {name: values + 1 for name, values in tensors.items()}
    write_safetensors(folder / "epoch-3.safetensors", other)
    assert detect(folder / "epoch-3.safetensors") == ("pt", folder / "epoch-3.safetensors")
    found = load_checkpoint(folder / "epoch-3.safetensors")
    name = "model/input/word_embedding/lookup_table"
    np.testing.assert_array_equal(
        found.tensors[name], tensors["funnel.embeddings.word_embeddings.weight"] + 1
    )
    assert found.metadata["architecture"] == "FunnelForSequenceClassification"


def test_released_names_in_safetensors(tmp_path):
    checkpoint = random_checkpoint(TINY.replace(decoder_size="0"), HEADS)
    names = released_names(checkpoint.config, "classification")
    tensors = {f"module.{names[name]}": values for name, values in checkpoint.tensors.items()}
    write_safetensors(tmp_path / "weights.safetensors", tensors)
    checkpoint.config.save_pytorch_net_config(tmp_path / "net_config.pytorch.json")
    assert_same(load_checkpoint(tmp_path / "weights.safetensors").tensors, checkpoint.tensors)


def test_tensors_outside_the_model_are_refused(saved):
    folder, _, tensors = saved
    wrapped = {f"model.{name}": values for name, values in tensors.items()}
    write_safetensors(folder / "model.safetensors", wrapped | {"criterion.weight": np.ones(3)})
    with pytest.raises(CheckpointError, match=r"named model\.…, but others are not: criterion"):
        load_checkpoint(folder)


def test_two_models_in_a_file_are_refused(saved):
    folder, _, tensors = saved
    both = {f"{who}.{name}": v for who in ("student", "teacher") for name, v in tensors.items()}
    write_safetensors(folder / "model.safetensors", both)
    with pytest.raises(CheckpointError, match="several models.*'student.', 'teacher.'"):
        load_checkpoint(folder)


def test_a_tensor_with_and_without_its_wrapper_is_refused():
    values = np.ones(1)
    with pytest.raises(CheckpointError, match="a.b is there twice"):
        strip_wrappers({"a.b": values, "a.module.b": values}, "f")


def test_unknown_names_stay():
    assert list(strip_wrappers({"layer.w": np.ones(1)}, "f")) == ["layer.w"]


def test_containers_and_nested_modules():
    state = {"embeddings": {"word_embeddings": {"weight": 1}}}
    flat = {"embeddings.word_embeddings.weight": 1}
    for value in (
        state,
        {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"step": 1}}}},
        {"checkpoint": 1, "model": {"module": state}},
        [state, {"lr": 0.1}],
        {"model_state_dict": flat},
    ):
        assert open_containers(value, "f") == flat
    assert open_containers(3, "f") == 3


def test_cycles_and_deep_nesting_end():
    loop = {"a": 1}
    loop["loop"] = loop
    assert set(open_containers(loop, "f")) == {"a", "loop"}
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert len(open_containers(deep, "f")) == 1
    many = {"w": 1}
    for _ in range(40):
        many = {"a": many, "b": many}
    assert len(open_containers(many, "f")) < 1000


def test_a_tensor_twice_or_missing_in_shards(saved):
    folder, _, tensors = saved
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    mapping = {name: ("a.safetensors" if name < names[9] else "b.safetensors") for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": mapping}))
    write_safetensors(folder / "a.safetensors", {n: tensors[n] for n in names[:10]})
    write_safetensors(folder / "b.safetensors", {n: tensors[n] for n in names[9:]})
    with pytest.raises(CheckpointError, match=r"b.safetensors: \S+ is in another file"):
        load_checkpoint(folder)
    write_safetensors(folder / "a.safetensors", {n: tensors[n] for n in names[:8]})
    with pytest.raises(CheckpointError, match=r"a.safetensors: lacks \S+, which the index lists"):
        load_checkpoint(folder)
