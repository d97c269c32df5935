"""Seeded damage to the structure of configs and checkpoints: a clear error, or the same meaning."""

import json
import random
import warnings
from dataclasses import fields

import numpy as np
import pytest

from checkpoint_cases import TINY, assert_same, random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.checkpoints.safetensors_file import read_safetensors, write_safetensors
from funnel.config.limits import MAX_LAYERS, MAX_UPSAMPLE_FACTOR
from funnel.config.model import ModelConfig
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import FunnelError
from mutations import HARMLESS, mutate_arrays, mutate_json

CASES = 100
LONGEST_MESSAGE = 3000
DEFAULTS = {field.name: field.default for field in fields(ModelConfig)}
# Written for transformers, and not read.
NOT_READ = ("model_type", "initializer_range", "initializer_std")
CONFIGS = {
    "net_config.json": TINY.to_net_config(),
    "net_config.pytorch.json": TINY.to_pytorch_net_config(),
    "config.json": TINY.to_hf(),
}


def check_message(error, path):
    """A message is one line, of a length that can be read, and names the file or its directory."""
    message = str(error)
    assert "\n" not in message and len(message) < LONGEST_MESSAGE, message[:5000]
    assert str(path) in message, message


def check_meaning(config, values):
    """Assert that ``config`` says what the parsed file says."""
    assert config.upsample_factor <= MAX_UPSAMPLE_FACTOR
    assert sum(block.layers for block in config.blocks) <= MAX_LAYERS
    stated = config.to_dict() if "block_size" in values else config.to_hf()
    for key, value in values.items():
        if key not in stated or key in NOT_READ or isinstance(value, dict):
            continue
        is_default = value in (None, []) and key in (
            "hidden_act",
            "attention_type",
            "block_repeats",
        )
        same = stated[key] == value and isinstance(stated[key], bool) == isinstance(value, bool)
        assert same or is_default, (key, value, stated[key])
    for key, default in DEFAULTS.items() if "block_size" in values else ():
        if key not in values:
            assert getattr(config, key) == default


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(tmp_path, name):
    path, errors = tmp_path / name, 0
    for seed in range(CASES):
        text = mutate_json(json.dumps(CONFIGS[name]), random.Random(seed))
        path.write_text(text)
        try:
            config = ModelConfig.load(path)
        except FunnelError as error:
            check_message(error, path)
            errors += 1
        else:
            check_meaning(config, json.loads(text))
    assert CASES / 4 < errors < CASES


def test_configs_of_a_checkpoint(tmp_path):
    """config.json with labels and the names of heads, next to weights that stay as they are."""
    heads, labels = ("summary", "classification", "mlm"), ["a", "b", "c"]
    checkpoint = random_checkpoint(TINY, heads, labels=labels, problem_type="x")
    save_checkpoint(checkpoint, tmp_path, "hf")
    path, errors = tmp_path / "config.json", 0
    good = path.read_text()
    for seed in range(CASES):
        rng = random.Random(seed)
        values = json.loads(good)
        if seed % 3 == 0:  # one level deeper: our own object
            values["funnel_checkpoint"] = json.loads(good)["funnel_checkpoint"]
            inner = mutate_json(json.dumps(values["funnel_checkpoint"]), rng)
            text = good.replace(json.dumps(values["funnel_checkpoint"], indent=2), "@")
            text = json.dumps(values | {"funnel_checkpoint": "@"}).replace('"@"', inner)
        else:
            text = mutate_json(good, rng)
        path.write_text(text)
        try:
            found = load_checkpoint(tmp_path)
        except FunnelError as error:
            check_message(error, tmp_path)
            errors += 1
        else:
            check_meaning(found.config, json.loads(text))
            assert_same(found.tensors, _rename(checkpoint.tensors, found))
    assert CASES / 4 < errors < CASES


def _rename(tensors, found):
    """The classifier's scope is a name that config.json gives it."""
    scope = found.metadata["cls_scope"]
    return {name.replace("classification", scope): values for name, values in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "funnel_extra.safetensors"])
def test_tensors_of_safetensors(tmp_path, file):
    checkpoint = random_checkpoint(TINY, ("summary", "classification", "mlm"))
    save_checkpoint(checkpoint, tmp_path, "hf")
    tensors = {n: np.array(v) for n, v in read_safetensors(tmp_path / file)[0].items()}
    for seed in range(CASES):
        kind, changed = mutate_arrays(tensors, random.Random(seed))
        write_safetensors(tmp_path / file, changed, {"format": "pt"})
        _load_and_check(tmp_path, checkpoint, kind)


def test_headers_of_safetensors(tmp_path):
    """The header itself, with its table of places; the checksums are of the right file."""
    checkpoint = random_checkpoint(TINY)
    save_checkpoint(checkpoint, tmp_path, "hf")
    path = tmp_path / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    names, data = [name for name in header if name != "__metadata__"], raw[8 + size :]
    for seed in range(CASES):
        rng = random.Random(seed)
        if seed % 2:
            text = mutate_json(json.dumps(header), rng)
        else:
            first, second = rng.sample(names, 2)
            places = {first: header[second], second: header[first]}
            inner = json.loads(json.dumps(header[first]))
            inner[rng.choice(list(inner))] = rng.choice(["F16", [1], [12, 12], [0, 4], -1, None])
            text = json.dumps(header | rng.choice([places, {first: inner}]))
        encoded = text.encode("utf-8", "surrogatepass")
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
        _load_and_check(tmp_path, checkpoint, None)


@pytest.mark.slow
def test_variables_of_tensorflow(tmp_path):
    heads = ("summary", "classification", "mlm", "discriminator", "squad")
    checkpoint = random_checkpoint(TINY, heads)
    save_checkpoint(checkpoint, tmp_path, "tf")
    tensors = dict(TFCheckpoint(tmp_path))
    for seed in range(CASES):
        kind, changed = mutate_arrays(tensors, random.Random(seed))
        write_tf_checkpoint(tmp_path / "model.ckpt", changed)
        _load_and_check(tmp_path, checkpoint, kind)


def test_the_state_file_of_tensorflow(tmp_path):
    checkpoint = random_checkpoint(TINY)
    save_checkpoint(checkpoint, tmp_path, "tf")
    state = tmp_path / "checkpoint"
    good = state.read_bytes()
    pieces = (b"\\999", b"\\7", b"\\777", b"\\x", b"\\q", b"\\", b'"', b"\n", b"\0", b"\xff", b"'")
    pieces += (b"a" * 300, b"/", b"..", b"model_checkpoint_path: ", b"\\n", b"%s")
    for seed in range(CASES):
        rng = random.Random(seed)
        place = rng.randrange(len(good))
        state.write_bytes(good[:place] + rng.choice(pieces) + good[place + rng.randrange(3) :])
        _load_and_check(tmp_path, checkpoint, None)


def _load_and_check(folder, checkpoint, kind):
    """Loading gives a clear error, or the same weights; ``kind`` of damage decides which."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = load_checkpoint(folder)
        except FunnelError as error:
            check_message(error, folder)
            assert kind not in HARMLESS
            return
    assert kind is None or kind in HARMLESS, kind
    assert_same(found.tensors, checkpoint.tensors)
