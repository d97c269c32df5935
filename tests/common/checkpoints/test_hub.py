"""Models by hub name, from a local stand-in of the hub: download, cache, errors, upload."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")

import hub_server
from checkpoint_cases import TINY, random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config import hub as funnel_hub
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError
from repo_layout import ROOT

pytestmark = pytest.mark.slow

WORDS = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>", "a", "b"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory as save_pretrained writes it, with files that are no part of a model."""
    top = tmp_path_factory.mktemp("model")
    (top / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    checkpoint = random_checkpoint(TINY)
    checkpoint.metadata["vocab_path"] = str(top / "vocab.txt")
    checkpoint.metadata["uncased"] = True
    save_checkpoint(checkpoint, top / "model", "hf")
    return checkpoint, top / "model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub; this process uses it with an empty cache."""
    import huggingface_hub
    from huggingface_hub import constants

    with hub_server.serve() as server:
        # The library reads these once, from HF_ENDPOINT and HF_HOME, when it is first imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(constants, name, str(tmp_path / "cache"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.chdir(tmp_path)
        funnel_hub.fetch.cache_clear()
        yield server
        funnel_hub.fetch.cache_clear()
        assert huggingface_hub.__version__


def test_a_name_is_downloaded_without_files_that_loading_does_not_need(hub, model):
    checkpoint, folder = model
    hub.publish("funnel-transformer/small", folder)
    more = hub.models["funnel-transformer/small"]["main"]
    needed = set(more)
    extra = {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "run.py"}
    more |= dict.fromkeys(extra, b"x")
    loaded = load_checkpoint("funnel-transformer/small")
    for name, values in checkpoint.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], values)
    assert hub.fetched() == needed - {"README.md"}
    assert os.path.basename(loaded.metadata["vocab_path"]) == "vocab.txt"


def test_the_cache_is_used_the_next_time_and_without_a_hub(hub, model, monkeypatch):
    from huggingface_hub import constants

    hub.publish("me/mine", model[1])
    first = load_checkpoint("me/mine").metadata["path"]
    hub.seen.clear()
    funnel_hub.fetch.cache_clear()
    assert load_checkpoint("me/mine").metadata["path"] == first
    assert not hub.fetched()
    load_checkpoint("me/mine")
    assert len(hub.seen) <= 2, "once in a process"
    funnel_hub.fetch.cache_clear()
    hub.models.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert load_checkpoint("me/mine").metadata["path"] == first


def test_pickles_are_only_read_where_there_are_no_safetensors(hub, model, tmp_path):
    files = dict.fromkeys(["config.json", "pytorch_model.bin", "tokenizer.json", "x.bin"], b"")
    assert funnel_hub.choose_files(files) == ["config.json", "pytorch_model.bin", "tokenizer.json"]
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files |= dict.fromkeys([*shards, "model.safetensors.index.json"], b"")
    chosen = funnel_hub.choose_files(files)
    assert set(chosen) >= set(shards) and "pytorch_model.bin" not in chosen
    hub.models["me/evil"] = {"main": {"config.json": (model[1] / "config.json").read_bytes()}}
    pickled = b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR."
    hub.models["me/evil"]["main"]["pytorch_model.bin"] = pickled
    with pytest.raises(CheckpointError):
        load_checkpoint("me/evil")
    assert not (tmp_path / "executed").exists()


def test_a_revision(hub, model, tmp_path):
    hub.publish("me/mine", model[1], "v1")
    with pytest.raises(CheckpointError, match="has no revision v2"):
        load_checkpoint("me/mine@v2")
    assert load_checkpoint("me/mine@v1").config == TINY


def test_a_local_path_of_that_name_precedes(hub, model, tmp_path):
    save_checkpoint(model[0], tmp_path / "me" / "mine", "hf")
    assert load_checkpoint("me/mine").metadata["path"] == "me/mine"
    save_checkpoint(model[0], tmp_path / "me" / "other" / "model.ckpt", "tf")
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        load_checkpoint("me/missing")
    assert not hub.seen
    assert funnel_hub.parse_name("me/other/model.ckpt") is None
    assert funnel_hub.parse_name("out/model.ckpt-5") is None


def test_a_clone_may_have_the_name_of_the_organization(hub, model, tmp_path):
    hub.publish("funnel-transformer/large-base", model[1])
    (tmp_path / "funnel-transformer").mkdir()
    assert load_checkpoint("funnel-transformer/large-base").config == TINY


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/nothing", "me/nothing: does not exist here, and http.* has no such model"),
        ("me/gated", "me/gated: its authors give access on request"),
        ("me/empty", "me/empty: has no config.json"),
        ("me/flax", "me/flax: has neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_what_cannot_be_downloaded_is_one_line(hub, name, message):
    hub.models |= {"me/gated": {"main": {}}, "me/empty": {"main": {"README.md": b""}}}
    hub.models["me/flax"] = {"main": {"config.json": b"{}", "flax_model.msgpack": b""}}
    hub.gated.add("me/gated")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(name)
    assert "\n" not in str(caught.value)


def test_without_connection_the_error_says_what_to_do(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint("funnel-transformer/small@v1")
    told = str(caught.value)
    assert "\n" not in told and constants.HF_HUB_CACHE in told
    command = "`hf download funnel-transformer/small --revision v1 --local-dir small`"
    assert f"{command} downloads it: then give small" in told


def test_without_the_library_the_error_says_what_to_do(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="with `pip install huggingface_hub` the name"):
        load_checkpoint("funnel-transformer/small")


def test_published_names_have_the_sizes_of_the_documentation():
    text = (ROOT / "docs" / "checkpoints.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)`, `([\w-]+)` \| `(B[\w-]+)` \|", text, re.MULTILINE)
    shown = {f"funnel-transformer/{name}": size for *names, size in rows for name in names}
    assert shown == funnel_hub.PUBLISHED and len(shown) == 10
    for size in funnel_hub.PUBLISHED.values():
        config = ModelConfig.load(ROOT / "configs" / f"{size}.json")
        sizes = "B" + "-".join(
            f"{block.layers // block.repeats}x{block.repeats}" if block.repeats > 1 else
            str(block.layers) for block in config.blocks
        )  # fmt: skip
        assert f"{sizes}H{config.d_model}" == size


def _environment(hub, tmp_path):
    home = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    return {**os.environ, **home, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def test_programs_take_names_and_the_environment_of_the_hub(hub, model, tmp_path):
    hub.publish("funnel-transformer/small", model[1])
    program = str(ROOT / "pytorch" / "convert.py")
    command = [sys.executable, program, "--src=funnel-transformer/small", "--to=tf"]
    environment = _environment(hub, tmp_path)
    for offline, target in (("0", "one"), ("1", "two")):
        environment["HF_HUB_OFFLINE"] = offline
        flags = [f"--dst={target}/model.ckpt"]
        done = subprocess.run(
            [*command, *flags], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / target / "vocab.txt").read_text() == "".join(f"{w}\n" for w in WORDS)
    assert "hub" in os.listdir(tmp_path / "home")


def test_a_saved_model_is_uploaded_as_it_is(hub, model):
    """With the library's own upload, which validates the model card, and back by its name."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.address, token="hf_none")
    api.create_repo("me/mine")
    api.upload_folder(repo_id="me/mine", folder_path=model[1])
    uploaded = hub.models["me/mine"]["main"]
    assert uploaded == {path.name: path.read_bytes() for path in model[1].iterdir()}
    assert ("POST", "/api/validate-yaml") in hub.seen
    assert json.loads(uploaded["config.json"])["model_type"] == "funnel"
    loaded = load_checkpoint("me/mine")
    for name, values in model[0].tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], values)
