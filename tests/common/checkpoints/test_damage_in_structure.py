"""Damage in the structure of a checkpoint's files, not in their bytes: one clear line each."""

import json

import numpy as np
import pytest

from checkpoint_cases import TINY, assert_same, random_checkpoint
from funnel.checkpoints import detect, load_checkpoint, save_checkpoint
from funnel.checkpoints.locate import require_checkpoint
from funnel.checkpoints.safetensors_file import read_safetensors, write_safetensors
from funnel.utils.errors import CheckpointError, ConfigError, FunnelError

LONG = "x" * 300


def _refuse(folder, *told):
    with pytest.raises(FunnelError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1200, message
    for words in told:
        assert words in message, message


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def saved(tmp_path):
    checkpoint = random_checkpoint(TINY, ("summary", "classification", "mlm"), labels=[*"abc"])
    save_checkpoint(checkpoint, tmp_path / "hf", "hf")
    return tmp_path / "hf"


def test_a_lost_extra_file_is_missed(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["funnel_checkpoint"]["extra_weights"] == "funnel_extra.safetensors"
    (saved / "funnel_extra.safetensors").unlink()
    _refuse(saved, "funnel_extra.safetensors: missing, but config.json lists it")
    del config["funnel_checkpoint"]["extra_weights"]
    _edit(saved / "config.json", **config)
    assert "model/lm_loss/bias" not in load_checkpoint(saved).tensors


def test_without_extra_weights_none_are_listed(tmp_path):
    save_checkpoint(random_checkpoint(TINY, ("discriminator",)), tmp_path, "hf")
    assert "extra_weights" not in (tmp_path / "config.json").read_text()
    assert load_checkpoint(tmp_path).tensors


@pytest.mark.parametrize("name", [LONG, "../a.safetensors", "", ".", "..", "a\nb", "\0", "ä" * 200])
def test_names_of_shards(saved, name):
    tensors = read_safetensors(saved / "model.safetensors")[0]
    (saved / "model.safetensors").unlink()
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    _refuse(saved, "index.json: names ", "which is not in the same directory")


@pytest.mark.parametrize(
    "path", [LONG, f"{LONG}/model.ckpt", f"a/{LONG}.pt", "x" * 250, "ab/" * 2000, "a\0b"]
)
def test_paths_that_no_file_system_holds(tmp_path, path):
    for function in (load_checkpoint, detect, require_checkpoint):
        with pytest.raises(CheckpointError, match="does not exist"):
            function(tmp_path / path)
    with pytest.raises(ConfigError, match="does not exist"):
        require_checkpoint(None, str(tmp_path / path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (r'"\999"', "unknown escape"),
        (r'"\777"', "is no quoted path"),
        (r'"model\q"', "unknown escape"),
        (r'"a\nb"', "is no path of a checkpoint"),
        (r'"\000"', "is no path of a checkpoint"),
        (f'"{LONG}"', f"names {LONG}, but {LONG}.index does not exist"),
        (f'"{LONG}{LONG}"', "but 'xx"),
        ('"other"', "names other, but other.index does not exist"),
        ("other", "should have one line model_checkpoint_path"),
    ],
)
def test_the_state_file_of_tensorflow(tmp_path, text, told):
    save_checkpoint(random_checkpoint(TINY), tmp_path, "tf")
    (tmp_path / "checkpoint").write_text(f"model_checkpoint_path: {text}\n")
    _refuse(tmp_path, "checkpoint: ", told)


@pytest.mark.parametrize(
    "quoted",
    [
        r'"\155odel.ckpt"',
        r'"\x6dodel.ckpt"',
        "'model.ckpt'",
        r'"mod\145l.ckpt"',
        r'"/m/model.ckpt"',
    ],
)
def test_escapes_that_protocol_buffers_write(tmp_path, quoted):
    save_checkpoint(random_checkpoint(TINY), tmp_path, "tf")
    (tmp_path / "checkpoint").write_text(f"model_checkpoint_path: {quoted}\n")
    assert detect(tmp_path) == ("tf", tmp_path / "model.ckpt")


def test_a_name_with_blanks_of_every_kind_is_written_and_found(tmp_path):
    checkpoint = random_checkpoint(TINY)
    prefix = tmp_path / 'a "b"\u00a0\u3000\\ä.ckpt'
    save_checkpoint(checkpoint, prefix, "tf")
    assert detect(tmp_path) == ("tf", prefix)
    assert_same(load_checkpoint(tmp_path).tensors, checkpoint.tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": 5},
        {"architectures": {"a": 1}},
        {"architectures": "FunnelModel"},
        {"architectures": [["FunnelModel"]]},
    ],
)
def test_architectures_of_another_type_are_as_none(saved, changes):
    wanted = load_checkpoint(saved).tensors
    _edit(saved / "config.json", **changes)
    assert_same(load_checkpoint(saved).tensors, wanted)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label: should name the labels"),
        ({"id2label": {"9" * 5000: "a"}}, "id2label: should name the labels"),
        ({"problem_type": [1]}, "problem_type: [1] should be a name"),
        ({"funnel_checkpoint": {"cls_scope": 5}}, "cls_scope: 5 should be a name"),
        ({"funnel_checkpoint": {"labels": 5}, "id2label": None}, "labels: 5 should be a list"),
    ],
)
def test_facts_of_another_type(saved, changes, told):
    _edit(saved / "config.json", **changes)
    _refuse(saved, "config.json: ", told)


@pytest.mark.parametrize(
    ("label2id", "told"),
    [
        ({"a": 0, "b": 2, "c": 1}, "label2id (b 2, c 1) contradicts id2label (a 0, b 1, c 2)"),
        ({"x": 0}, "label2id (x 0) contradicts"),
        ({"a": 7, "b": None}, "label2id (a 7, b None) contradicts"),
        ({"c": 2, "b": 1, "a": 0}, None),
        (
            {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
            None,
        ),  # transformers' own, from id2label alone
        ({}, None),
        (None, None),
    ],
)
def test_label2id_that_contradicts_id2label_is_said_once(saved, caplog, label2id, told):
    _edit(saved / "config.json", label2id=label2id)
    for _ in range(2):
        assert load_checkpoint(saved).metadata["labels"] == [*"abc"]
    said = [text for text in caplog.messages if "label2id" in text]
    assert len(said) == (told is not None)
    assert all(text.startswith(f"{saved / 'config.json'}: {told}") for text in said)


def test_a_config_cannot_name_a_file_as_the_vocabulary(saved, tmp_path):
    """It would be copied next to converted weights, whatever it is."""
    (tmp_path / "secret").write_text("secret")
    _edit(saved / "config.json", funnel_checkpoint={"vocab_path": str(tmp_path / "secret")})
    (saved / "funnel_extra.safetensors").unlink()
    assert "vocab_path" not in load_checkpoint(saved).metadata


def test_labels_next_to_a_tensorflow_checkpoint(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path, "tf")
    (tmp_path / "labels.json").write_text('{"labels": ["a", 1]}')
    _refuse(tmp_path, "labels.json: labels: ['a', 1] should be a list of names")


def test_nested_metadata_of_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    header = {"__metadata__": {"crc32c": "[" * 100_000}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="its checksums cannot be read"):
        read_safetensors(path)


def test_settings_of_the_extra_file_of_a_released_model(tmp_path):
    pytest.importorskip("torch")
    save_checkpoint(random_checkpoint(TINY, ("mlm",)), tmp_path, "pt")
    extra = tmp_path / "model.extra.safetensors"
    tensors = {name: np.array(values) for name, values in read_safetensors(extra)[0].items()}
    for config in ("[1]", "3", "[" * 100_000, "{}", "9" * 6000):
        write_safetensors(extra, tensors, {"config": config})
        _refuse(tmp_path, "model.extra.safetensors")
    write_safetensors(extra, tensors)
    _refuse(tmp_path, "its metadata should hold the model config")


def test_a_released_name_offers_its_download(tmp_path):
    told = "download_all_ckpts.sh --sizes B4-4-4H768 --formats FULL-TF"
    with pytest.raises(CheckpointError, match=told):
        detect(tmp_path / "B4-4-4H768-ELEC-FULL-TF/model.ckpt")


@pytest.mark.parametrize("there", ["model.ckpt.pt", "epoch.pth", "model.ckpt-5.index"])
def test_weights_under_another_name_are_named(tmp_path, there):
    folder = tmp_path / "B4-4-4H768-ELEC-PT"
    folder.mkdir()
    (folder / there).touch()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder / "model.pt")
    assert str(caught.value).endswith(f"in that directory: {there.removesuffix('.index')}")


def test_a_prefix_without_its_index(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path, "tf")
    (tmp_path / "model.ckpt.index").unlink()
    with pytest.raises(CheckpointError, match="incomplete .*: model.ckpt.index does not exist"):
        detect(tmp_path / "model.ckpt")


def test_the_directory_of_a_run_names_its_models(tmp_path):
    save_checkpoint(random_checkpoint(TINY), tmp_path / "run/best", "hf")
    with pytest.raises(CheckpointError, match="holds no checkpoint: .*; .*run/best does"):
        detect(tmp_path / "run")


def test_a_hub_id_is_no_directory_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hf download funnel-transformer/small --local-dir"):
        detect("funnel-transformer/small")
    # The published names stay names; others may be slips in a path.
    (tmp_path / "somebody").mkdir()
    with pytest.raises(CheckpointError, match="the path does not exist"):
        detect("somebody/small")
