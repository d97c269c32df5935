"""`tensorflow/extract_features.py`: the arrays of the PyTorch program, for any checkpoint."""

import sys

import numpy as np
import pytest

import program_server
import repo_layout
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from support_tf import import_tensorflow

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import_tensorflow()

from funnel_torch.models.feature_extractor import FeatureExtractor

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "."]
CONFIG = ModelConfig(
    vocab_size=10, d_model=16, d_embed=12, n_head=2, d_head=8, d_inner=32, block_size="1x2_1",
    decoder_size="1", rel_attn_type="factorized", init_std=0.3,
)  # fmt: skip


def run(*flags, status=0):
    program = repo_layout.ROOT / "tensorflow" / "extract_features.py"
    done = program_server.run([program, "--device_id=-1", *flags])
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the same weights as Hugging Face files with a vocabulary, and in TensorFlow's."""
    directory = tmp_path_factory.mktemp("checkpoints")
    (directory / "words.txt").write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    model = FeatureExtractor(CONFIG, decoder=True, summary=True, discriminator=True)
    model.save_pretrained(directory / "hf", vocab_path=directory / "words.txt")
    save_checkpoint(load_checkpoint(directory / "hf"), directory / "tf", "tf")
    return directory


def test_ids_give_what_pytorch_computes(checkpoints, tmp_path):
    ids = np.random.default_rng(0).integers(0, 10, (5, 9))
    arrays = {"input_ids": ids, "token_type_ids": ids % 3, "attention_mask": np.ones_like(ids)}
    arrays["attention_mask"][2, 5:] = 0
    np.savez(tmp_path / "in.npz", **arrays)
    done = run("--model", checkpoints / "tf", "--ids", tmp_path / "in.npz", "--batch_size=2",
               "--output", tmp_path / "out.npz", "--no-truncate_seq")  # fmt: skip
    assert done.stderr == "" and "5 sequences" in done.stdout
    found = np.load(tmp_path / "out.npz")
    model = FeatureExtractor.from_pretrained(checkpoints / "hf", truncate_seq=False)
    expected = model.extract(**arrays)
    assert set(found.files) == set(expected) and len(expected) == 7
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)


def test_text(checkpoints, tmp_path):
    (tmp_path / "lines.txt").write_text("a b\tc .\nab d\n")
    run("--model", checkpoints / "hf", "--text", tmp_path / "lines.txt", "--attn_type=factorized",
        "--output", tmp_path / "out.npz")  # fmt: skip
    found = dict(np.load(tmp_path / "out.npz"))
    inputs = {key: found.pop(key) for key in ("input_ids", "token_type_ids", "attention_mask")}
    assert inputs["input_ids"][0].tolist() == [2, 5, 6, 3, 7, 9, 3]
    expected = FeatureExtractor.from_pretrained(checkpoints / "hf").extract(**inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found.pop(name), array, atol=1e-5, err_msg=name)
    assert not found


def test_weights_that_do_not_fit_are_one_clear_line(checkpoints, tmp_path):
    np.savez(tmp_path / "in.npz", input_ids=np.zeros((1, 4), int))
    CONFIG.replace(d_inner=24).save_net_config(tmp_path / "net_config.json")
    flags = ("--model", checkpoints / "tf", "--model_config", tmp_path / "net_config.json")
    done = run(*flags, "--ids", tmp_path / "in.npz", "--output", tmp_path / "out.npz", status=2)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert "ff/layer_1/kernel" in done.stderr and not (tmp_path / "out.npz").exists()


def test_selected_and_pooled_outputs_are_those_of_pytorch(checkpoints, tmp_path):
    (tmp_path / "lines.txt").write_text("a b\tc .\nab d\n\n" + "a b c . " * 30 + "\n")
    flags = ("--layers=-1,decoder,summary", "--pooling=mean", "--batch_size=2")
    run("--model", checkpoints / "hf", "--text", tmp_path / "lines.txt", *flags,
        "--output", tmp_path / "tf.npz")  # fmt: skip
    program = repo_layout.ROOT / "pytorch" / "extract_features.py"
    source = ("--model", checkpoints / "hf", "--text", tmp_path / "lines.txt")
    command = [program, "--device_id=-1", *source, *flags, "--output", tmp_path / "torch.npz"]
    program_server.run(command).check_returncode()
    found, expected = np.load(tmp_path / "tf.npz"), np.load(tmp_path / "torch.npz")
    assert found.files == expected.files == ["hidden_2", "decoder", "summary"]
    for name in found.files:
        assert found[name].shape == (4, 16)
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_vectors_are_those_of_pytorch(checkpoints, tmp_path, monkeypatch):
    """In half precision, scaled, without special tokens, as one array."""
    from funnel.cli.flags import parse_settings
    from funnel_tf.cli.extract_features import run as run_tensorflow
    from funnel_tf.cli.programs import ExtractSettings
    from funnel_torch.cli.extract_features import run as run_torch
    from funnel_torch.cli.settings.extract_features import TorchExtractionSettings

    (tmp_path / "lines.txt").write_text("a b\tc .\nab d\n\n")
    flags = [f"--text={tmp_path / 'lines.txt'}", "--layers=decoder", "--pooling=max", "--normalize",
             "--dtype=float16", "--exclude_special", "--device_id=-1"]  # fmt: skip
    found = []
    for kind, program, settings in (
        ("tf", run_tensorflow, ExtractSettings),
        ("hf", run_torch, TorchExtractionSettings),
    ):
        output = tmp_path / f"{kind}.npy"
        paths = [f"--model={checkpoints / kind}", f"--output={output}"]
        monkeypatch.setattr(sys, "argv", ["extract_features.py", *paths, *flags])
        program(parse_settings(settings, ""))
        found.append(np.load(output, mmap_mode="r"))
    assert found[0].dtype == np.float16 and found[0].shape == (3, 16)
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
