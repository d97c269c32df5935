"""Loading and saving checkpoints in TensorFlow and Hugging Face layouts without a framework."""

import json
import re
import resource

import numpy as np
import pytest

from checkpoint_cases import TINY, VARIANTS, assert_same, flip, random_checkpoint, with_slots
from funnel.checkpoints import detect, load_checkpoint, save_checkpoint
from funnel.checkpoints.safetensors_file import read_safetensors, write_safetensors
from funnel.config.model import ModelConfig
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError, ConfigError, FunnelError

ALL_HEADS = (
    *("summary", "classification", "mlm", "discriminator", "generator"),
    *("race", "token_classification", "squad", "answer_class"),
)
HEADS = {
    "none": (),
    "classifier": ("summary", "classification"),
    "race": ("summary", "race"),
    "tokens": ("token_classification",),
    "answers": ("question_answering",),
    "squad": ("squad", "answer_class"),
    "mlm": ("mlm",),
    "mlm_without_projection": ("mlm_bias",),
    "electra": ("mlm", "discriminator", "generator"),
    "all": ALL_HEADS,
}


@pytest.mark.slow
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trips_are_bit_identical(tmp_path, variant, heads):
    """TF to HF to TF, everything kept, whatever transformers can express."""
    config = VARIANTS[variant]
    first = random_checkpoint(config, HEADS[heads])
    assert save_checkpoint(first, tmp_path / "tf", "tf") == []
    from_tf = load_checkpoint(tmp_path / "tf")
    assert_same(from_tf.tensors, first.tensors)
    assert from_tf.config == config.replace(truncate_seq=True)  # not in net_config.json
    from_tf.config = config
    save_checkpoint(from_tf, tmp_path / "hf", "hf")
    from_hf = load_checkpoint(tmp_path / "hf")
    assert_same(from_hf.tensors, first.tensors)
    assert from_hf.config == config
    save_checkpoint(from_hf, tmp_path / "again", "tf")
    assert_same(dict(TFCheckpoint(tmp_path / "again")), first.tensors)


@pytest.mark.parametrize(
    ("heads", "architecture", "extra_parts"),
    [
        ("none", "FunnelModel", ()),
        ("classifier", "FunnelForSequenceClassification", ("decoder/",)),
        ("race", "FunnelForMultipleChoice", ("decoder/",)),
        ("tokens", "FunnelForTokenClassification", ()),
        ("answers", "FunnelForQuestionAnswering", ()),
        ("squad", "FunnelModel", ("start_logits", "end_logits", "answer_class")),
        ("mlm", "FunnelModel", ("lm_proj", "lm_loss")),
        ("mlm_without_projection", "FunnelForMaskedLM", ()),
        ("electra", "FunnelForPreTraining", ("lm_proj", "lm_loss", "generator/")),
    ],
)
def test_tensors_that_transformers_lacks_are_kept_and_reported(
    tmp_path, heads, architecture, extra_parts
):
    checkpoint = random_checkpoint(TINY, HEADS[heads])
    kept = save_checkpoint(checkpoint, tmp_path / "m", "hf")
    assert json.loads((tmp_path / "m/config.json").read_text())["architectures"] == [architecture]
    assert kept == sorted(n for n in checkpoint.tensors if any(part in n for part in extra_parts))
    extra = tmp_path / "m/funnel_extra.safetensors"
    assert extra.exists() == bool(kept)
    if kept:
        assert sorted(read_safetensors(extra)[0]) == kept
        assert f"`{kept[0]}`" in (tmp_path / "m/README.md").read_text()


@pytest.mark.parametrize("variant", ["null", "projected", "decoder_repeats", "pool_by_3"])
def test_a_core_beyond_transformers_gets_another_model_type(tmp_path, variant):
    save_checkpoint(random_checkpoint(VARIANTS[variant]), tmp_path / "m", "hf")
    values = json.loads((tmp_path / "m/config.json").read_text())
    assert values["model_type"] == "funnel-extended"
    assert load_checkpoint(tmp_path / "m").config == VARIANTS[variant]


@pytest.mark.parametrize("variant", ["one_block", "first_block_repeats"])
def test_a_skip_connection_that_transformers_gets_wrong_is_not_offered_to_it(tmp_path, variant):
    config = VARIANTS[variant]
    checkpoint = random_checkpoint(config, ("discriminator",))
    kept = save_checkpoint(checkpoint, tmp_path / "m", "hf")
    values = json.loads((tmp_path / "m/config.json").read_text())
    assert values["architectures"] == ["FunnelBaseModel"]
    assert all("decoder" in name or "binary" in name for name in kept)
    assert "model/binary_loss/bias" in kept


def test_their_discriminator_follows_the_activation_so_it_is_not_offered(tmp_path):
    checkpoint = random_checkpoint(VARIANTS["relu"], ("discriminator",))
    kept = save_checkpoint(checkpoint, tmp_path / "m", "hf")
    assert [name.split("/")[1] for name in kept] == ["binary_loss"] * 2 + ["binary_proj"] * 2


def test_the_discriminator_changes_sign(tmp_path):
    checkpoint = random_checkpoint(TINY, ("discriminator",))
    save_checkpoint(checkpoint, tmp_path / "m", "hf")
    theirs = read_safetensors(tmp_path / "m/model.safetensors")[0]
    ours = checkpoint.tensors
    weight = theirs["discriminator_predictions.dense_prediction.weight"]
    bias = theirs["discriminator_predictions.dense_prediction.bias"]
    np.testing.assert_array_equal(weight, -ours["model/binary_loss/weight"][None])
    np.testing.assert_array_equal(bias, -ours["model/binary_loss/bias"])


@pytest.mark.parametrize("kind", ["tf", "hf"])
def test_optimizer_state_is_read_only_when_asked_for(tmp_path, kind):
    checkpoint = with_slots(random_checkpoint(TINY, ("discriminator",)))
    save_checkpoint(checkpoint, tmp_path / "m", kind)
    assert load_checkpoint(tmp_path / "m").optimizer == {}
    found = load_checkpoint(tmp_path / "m", with_optimizer=True)
    assert_same(found.tensors, checkpoint.tensors)
    assert_same(found.optimizer, checkpoint.optimizer)


@pytest.mark.parametrize("kind", ["tf", "hf"])
def test_labels_scope_and_vocabulary_travel_along(tmp_path, kind):
    (tmp_path / "vocab.uncased.txt").write_text("[PAD]\n[UNK]\n")
    checkpoint = random_checkpoint(
        TINY,
        HEADS["classifier"],
        decoder=False,
        cls_scope="mnli",
        labels=["contradiction", "entailment", "neutral"],
        problem_type="single_label_classification",
        vocab_path=str(tmp_path / "vocab.uncased.txt"),
    )
    save_checkpoint(checkpoint, tmp_path / "m", kind)
    found = load_checkpoint(tmp_path / "m")
    for key in ("labels", "problem_type", "cls_scope"):
        assert found.metadata[key] == checkpoint.metadata[key], key
    assert "model/mnli/logit/kernel" in found.tensors
    name = "vocab.txt" if kind == "hf" else "vocab.uncased.txt"
    assert found.metadata["vocab_path"] == str(tmp_path / "m" / name)
    assert (tmp_path / "m" / name).read_text() == "[PAD]\n[UNK]\n"


def test_label_names_must_match_the_head(tmp_path):
    checkpoint = random_checkpoint(TINY, HEADS["classifier"], labels=["a", "b"])
    with pytest.raises(CheckpointError, match=r"2 label names \(a, b …\) for a head of 3 labels"):
        save_checkpoint(checkpoint, tmp_path / "m", "hf")
    assert not (tmp_path / "m").exists()


def test_half_precision_safetensors_are_read_as_float32(tmp_path):
    checkpoint = random_checkpoint(TINY)
    save_checkpoint(checkpoint, tmp_path / "m", "hf")
    path = tmp_path / "m/model.safetensors"
    # Copies: what was read is a view of the file that is about to be overwritten.
    tensors = {name: values.copy() for name, values in read_safetensors(path)[0].items()}
    for kind, cut in (("BF16", 16), ("F16", None)):
        _write_half(path, tensors, kind, cut)
        found = load_checkpoint(tmp_path / "m").tensors
        for name, values in checkpoint.tensors.items():
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], values, rtol=2e-2, atol=1e-6)
        del found


def test_a_config_that_does_not_fit_names_all_problems_in_one_line(tmp_path):
    checkpoint = random_checkpoint(TINY, ("discriminator",))
    del checkpoint.tensors["model/binary_loss/bias"]
    checkpoint.tensors["model/surplus"] = np.zeros(3, np.float32)
    save_checkpoint(checkpoint, tmp_path / "m", "tf")
    TINY.replace(n_head=3).save_net_config(tmp_path / "m/net_config.json")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "m")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1500
    assert "1 missing: model/binary_loss/bias; 1 unexpected: model/surplus; " in message
    # 4 layers of the encoder and 2 of the decoder, 11 variables with heads each; 8 are shown.
    assert "66 of another shape: model/encoder/layer_0/rel_attn/q/kernel [12, 2, 5] " in message
    assert message.endswith(" and 58 more")


def test_the_same_for_a_hugging_face_directory(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path / "m", "hf")
    path = tmp_path / "m/config.json"
    path.write_text(path.read_text().replace('"d_inner": 14', '"d_inner": 15'))
    told = r"7? ?\d+ of another shape: .*linear_1.weight \[14, 12\] should be \[15, 12\]"
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(tmp_path / "m")


def test_a_config_path_replaces_the_one_next_to_the_weights(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path / "m", "tf")
    config = tmp_path / "m/net_config.json"
    config.rename(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match="no model config"):
        load_checkpoint(tmp_path / "m")
    found = load_checkpoint(tmp_path / "m", config_path=tmp_path / "elsewhere.json")
    assert found.config == TINY
    config.write_text("{")
    with pytest.raises(ConfigError, match=r"net_config.json:1: not valid JSON"):
        load_checkpoint(tmp_path / "m")


def test_variables_of_the_training_are_left_aside(tmp_path):
    checkpoint = random_checkpoint(TINY)
    more = {"input_pipeline/position": np.zeros(1, np.int64)}
    write_tf_checkpoint(tmp_path / "model.ckpt", checkpoint.tensors | more)
    TINY.save_net_config(tmp_path / "net_config.json")
    assert_same(load_checkpoint(tmp_path).tensors, checkpoint.tensors)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("layer_0/w", "no Funnel checkpoint; the variables should be named model/"),
        ("_CHECKPOINTABLE_OBJECT_GRAPH", "TensorFlow 2 object-based checkpoint"),
    ],
)
def test_checkpoints_of_other_models(tmp_path, name, told):
    write_tf_checkpoint(tmp_path / "model.ckpt", {name: np.float32([1])})
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(tmp_path)


def test_every_way_to_name_a_directory_is_detected(tmp_path):
    checkpoint = random_checkpoint(TINY)
    save_checkpoint(checkpoint, tmp_path / "hf", "hf")
    save_checkpoint(checkpoint, tmp_path / "tf", "tf")
    save_checkpoint(checkpoint, tmp_path / "tf/model.ckpt-7", "tf")
    newest = ("tf", tmp_path / "tf/model.ckpt-7")
    assert detect(tmp_path / "hf") == ("hf", tmp_path / "hf")
    assert detect(tmp_path / "hf/model.safetensors") == ("hf", tmp_path / "hf")
    assert detect(tmp_path / "tf") == detect(tmp_path / "tf/latest") == newest
    assert detect(tmp_path / "tf/model.ckpt") == ("tf", tmp_path / "tf/model.ckpt")
    assert detect(f"{newest[1]}.index") == detect(str(newest[1])) == newest


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, told in {
        tmp_path / "none": "no checkpoint there: neither a directory, nor",
        tmp_path: "holds no checkpoint: neither config.json with model.safetensors",
        tmp_path / "notes.txt": "no known checkpoint; should be",
    }.items():
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: {told}"):
            load_checkpoint(path)
    with pytest.raises(CheckpointError, match="'onnx' should be one of hf, pt, tf"):
        save_checkpoint(random_checkpoint(TINY), tmp_path / "m", "onnx")


def test_saving_into_a_directory_keeps_other_files_and_drops_stale_ones(tmp_path):
    save_checkpoint(random_checkpoint(TINY, ("mlm",)), tmp_path, "hf")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    checkpoint = random_checkpoint(TINY, seed=1)
    assert save_checkpoint(checkpoint, tmp_path, "hf") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "net_config.json", "notes.txt")
    ]
    assert (tmp_path / "README.md").read_text() == "mine"
    assert_same(load_checkpoint(tmp_path).tensors, checkpoint.tensors)


@pytest.mark.parametrize("kind", ["tf", "hf"])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, kind):
    old = random_checkpoint(TINY)
    save_checkpoint(old, tmp_path / "m", kind)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "m").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for target in (tmp_path / "m", tmp_path / "new"):
            with pytest.raises(FunnelError, match="cannot be written: .*File too large"):
                save_checkpoint(random_checkpoint(TINY, seed=1), target, kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = sorted((path.name, path.read_bytes()) for path in (tmp_path / "m").iterdir())
    assert after == before
    assert not (tmp_path / "new").exists() or list((tmp_path / "new").iterdir()) == []


def test_a_flipped_byte_anywhere_in_safetensors_is_found(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 1), np.float32)}
    write_safetensors(path, tensors, {"format": "pt"})
    good = path.read_bytes()
    for position in range(len(good)):
        flip(path, position, 1)
        try:
            found, _ = read_safetensors(path)
        except CheckpointError:
            continue
        finally:
            path.write_bytes(good)
        # A name may have become another, which the name table finds; never a number.
        assert {values.tobytes() for values in found.values()} == {
            values.tobytes() for values in tensors.values()
        }
        assert good[position : position + 1].isalnum(), position


def test_safetensors_are_the_same_bytes_every_time(tmp_path):
    tensors = {"ä": np.arange(4, dtype=np.float32), 'quote"': np.ones((2, 1), np.float32)}
    written = set()
    for number in range(20):
        path = tmp_path / str(number)
        write_safetensors(path, tensors, {"format": "pt", "a": "1", "b": "2"})
        written.add(path.read_bytes())
        assert_same(read_safetensors(path)[0], tensors)
    assert len(written) == 1


def test_weights_have_the_permissions_of_the_other_files(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path / "m", "hf")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "m").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize("size", [0, 4, 8, 60, 300])
def test_truncated_safetensors(tmp_path, size):
    save_checkpoint(random_checkpoint(TINY), tmp_path, "hf")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model.safetensors: .*(truncated|corrupt)"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}',
        b'{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"__metadata__": 1, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_malformed_safetensors_headers(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_safetensors(path)


def test_the_safetensors_package_agrees(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    tensors = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.asarray(3, np.float32),
        "empty": np.zeros((0, 2), np.float32),
    }
    write_safetensors(tmp_path / "ours", tensors)
    found = numpy_format.load_file(tmp_path / "ours")
    assert_same(found, tensors)
    mixed = {"f2": np.ones(3, np.float16), "i8": np.arange(2), "b": np.array([True])}
    numpy_format.save_file(mixed, tmp_path / "theirs")
    assert_same(read_safetensors(tmp_path / "theirs")[0], mixed)


def test_shards_of_a_large_model(tmp_path):
    checkpoint = random_checkpoint(TINY)
    save_checkpoint(checkpoint, tmp_path, "hf")
    tensors = read_safetensors(tmp_path / "model.safetensors")[0]
    names = sorted(tensors)
    halves = {"a.safetensors": names[:30], "b.safetensors": names[30:]}
    for file, part in halves.items():
        write_safetensors(tmp_path / file, {name: tensors[name] for name in part})
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    mapping = {name: file for file, part in halves.items() for name in part}
    index.write_text(json.dumps({"weight_map": mapping}))
    assert_same(load_checkpoint(tmp_path).tensors, checkpoint.tensors)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"index.json: names b.safetensors, which is not"):
        load_checkpoint(tmp_path)


def test_two_models_of_different_size_in_one_process(tmp_path):
    small, large = random_checkpoint(TINY), random_checkpoint(TINY.replace(d_inner=16))
    save_checkpoint(small, tmp_path / "small", "hf")
    save_checkpoint(large, tmp_path / "large", "hf")
    found = load_checkpoint(tmp_path / "small"), load_checkpoint(tmp_path / "large")
    assert [checkpoint.config.d_inner for checkpoint in found] == [14, 16]
    assert isinstance(found[0].config, ModelConfig)


def _write_half(path, tensors, kind, cut):
    header, data = {}, b""
    for name, values in tensors.items():
        values = np.ascontiguousarray(values)
        bits = (values.view(np.uint32) >> cut).astype(np.uint16) if cut else values.astype("f2")
        place = [len(data), len(data) + bits.nbytes]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": place}
        data += bits.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
