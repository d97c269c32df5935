"""Vectors of sentences: ``.npy`` output, scaling, number formats, special tokens, search."""

import shlex
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import readme_commands
from funnel.cli.flags import parse_settings
from funnel.config.extraction import OutputSettings
from funnel.config.model import ModelConfig
from funnel.formats.npy_rows import atomic_npy
from funnel.utils.errors import ConfigError, DataError
from funnel_torch import FunnelModel
from funnel_torch.cli.extract_features import run as run_program
from funnel_torch.cli.settings.extract_features import TorchExtractionSettings
from repo_layout import ROOT

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "."]
CONFIG = ModelConfig(
    vocab_size=10, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="1x2_1",
    decoder_size="1", init_std=0.3,
)  # fmt: skip
LINES = ["a b.", "a", "a b c . a b c .\tb c", "", "c " * 30]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    (directory / "words.txt").write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    FunnelModel(CONFIG).save_pretrained(directory / "model", vocab_path=directory / "words.txt")
    return directory / "model"


@pytest.fixture
def extract(model, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("\n".join(LINES) + "\n")

    def run(*flags, output="out.npz"):
        fixed = [f"--model={model}", "--device_id=-1", f"--output={tmp_path / output}"]
        given = [*fixed, "--batch_size=2", *flags]
        if not any(flag.startswith("--ids") for flag in flags):
            given.append(f"--text={tmp_path / 'in.txt'}")
        monkeypatch.setattr(sys, "argv", ["extract_features.py", *given])
        run_program(parse_settings(TorchExtractionSettings, ""))
        return np.load(tmp_path / output, mmap_mode="r" if output.endswith(".npy") else None)

    return run


def test_npy_is_the_array_of_the_npz(extract, tmp_path):
    every = extract("--layers=-1", "--pooling=mean")["hidden_2"]
    found = extract("--layers=-1", "--pooling=mean", output="out.npy")
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    np.testing.assert_array_equal(found, every)
    assert found.shape == (len(LINES), 16)


def test_scaled_vectors_in_half_precision(extract):
    plain = extract("--layers=-1", "--pooling=mean", output="plain.npy")
    found = extract("--layers=-1", "--pooling=mean", "--normalize", "--dtype=float16",
                    output="out.npy")  # fmt: skip
    assert found.dtype == np.float16
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    cosines, exact = found.astype(np.float32) @ found.T.astype(np.float32), expected @ expected.T
    assert np.abs(cosines - exact).max() < 1e-3


def test_special_tokens_are_left_out_where_they_are_positions_of_their_own(extract):
    every = extract("--layers=embedding,decoder,hidden_2")
    found = extract("--layers=embedding,decoder,hidden_2", "--pooling=mean", "--exclude_special")
    words = ~np.isin(every["input_ids"], [2, 3]) & (every["attention_mask"] > 0)
    for name in ("embedding", "decoder"):
        for row, keep in enumerate(words):
            states = every[name][row, : len(keep)][keep]
            expected = states.mean(0) if len(states) else np.zeros(16)
            np.testing.assert_allclose(found[name][row], expected, atol=1e-5)
    assert not found["embedding"][3].any(), "an empty line has no other token"
    # "a b.": [CLS] | a b | . [SEP]: the merged position stays, [CLS] does not.
    np.testing.assert_allclose(found["hidden_2"][0], every["hidden_2"][0, 1:3].mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pooling=mean"], "out.npy: a .npy file holds one output: choose one with --layers"),
        (["--layers=-1"], "one vector per sequence: add --pooling=mean"),
        (["--layers=-1", "--normalize"], "--normalize .* goes with --pooling"),
        (["--layers=-1", "--exclude_special", "--pooling=cls"], "--exclude_special goes with"),
    ],
)
def test_flags_that_do_not_fit_are_named(extract, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        extract(*flags, output="out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_ids_do_not_say_which_are_special(extract, tmp_path):
    np.savez(tmp_path / "ids.npz", input_ids=np.full((1, 4), 5))
    flags = [f"--ids={tmp_path / 'ids.npz'}", "--layers=-1", "--pooling=max"]
    with pytest.raises(ConfigError, match="goes with --text"):
        extract(*flags, "--exclude_special")
    assert extract(*flags, output="out.npy").shape == (1, 16)


def test_numbers_that_the_type_cannot_hold_are_an_error(extract, monkeypatch):
    from funnel_torch.models.feature_extractor import FeatureExtractor

    original = FeatureExtractor.extract
    monkeypatch.setattr(
        FeatureExtractor,
        "extract",
        lambda *a, **k: {n: x * np.float32(1e6) for n, x in original(*a, **k).items()},
    )
    with pytest.raises(DataError, match="hidden_2: holds .* more than float16 can"):
        extract("--layers=-1", "--pooling=mean", "--dtype=float16", output="out.npy")
    extract("--layers=-1", "--pooling=mean", "--dtype=float16", "--normalize", output="out.npy")


def test_an_incomplete_array_does_not_appear(tmp_path):
    with pytest.raises(ValueError, match="2 rows"), atomic_npy(tmp_path / "x.npy", 3) as rows:
        rows.append({"x": np.zeros((2, 4), np.float32)})
    assert not list(tmp_path.iterdir())
    with atomic_npy(tmp_path / "x.npy", 3) as rows:
        for size in (2, 1):
            rows.append({"x": np.full((size, 4), size, np.float32)})
    assert np.load(tmp_path / "x.npy")[:, 0].tolist() == [2, 2, 1]


def test_the_settings_import_no_framework():
    assert OutputSettings().dtype == "float32"


def test_the_documented_search_finds_the_same_text(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "funnel-b4").symlink_to(model)
    (tmp_path / "lines.txt").write_text("a b\nc .\nb c\nab .\n")
    (tmp_path / "queries.txt").write_text("c .\n")
    page = ROOT / "docs" / "semantic_search.md"
    for line in readme_commands.shell_lines(page):
        monkeypatch.setattr(sys, "argv", [*shlex.split(line)[1:], "--device_id=-1"])
        run_program(parse_settings(TorchExtractionSettings, ""))
    (code,) = readme_commands.blocks(page, "python")
    assert len(code.splitlines()) <= 22
    capsys.readouterr()
    exec(compile(code, "semantic_search.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "c ." and shown[1].split() == ["1.000", "c", "."] and len(shown) == 4
