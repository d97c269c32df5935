"""The documentation's example of the model in a graph of one's own."""

import numpy as np
import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

import readme_commands
import repo_layout
from funnel.checkpoints import Checkpoint, save_checkpoint
from funnel.checkpoints.names import expected_shapes
from funnel.config.model import ModelConfig
from funnel_tf.models.feature_extractor import FeatureExtractor

SYMBOLS = "<unk> <s> </s> <cls> <sep> <pad> <mask> <eod> <eop>"
WORDS = f"{SYMBOLS} the funnel narrow ##s toward its end".split()
SIZES = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32}


@pytest.fixture
def checkpoint(tmp_path):
    """A released directory, under the name that the documentation uses."""
    config = ModelConfig(len(WORDS), block_size="1_1_1", decoder_size="1", **SIZES)
    draw = np.random.default_rng(0)
    shapes = expected_shapes(config, heads=["summary"])
    tensors = {name: draw.normal(0, 0.3, s).astype(np.float32) for name, s in shapes.items()}
    found = Checkpoint(config, tensors, {})
    save_checkpoint(found, tmp_path / "CKPT" / "model.ckpt", "tf")
    (tmp_path / "CKPT" / "vocab.uncased.txt").write_text("\n".join(WORDS) + "\n")
    return found


@pytest.mark.slow
def test_example_computes_decoder_and_summary(checkpoint, tmp_path, monkeypatch):
    blocks = readme_commands.blocks(repo_layout.ROOT / "docs" / "tensorflow_graph.md", "python")
    (code,) = [block for block in blocks if "funnel_tf" in block]
    monkeypatch.chdir(tmp_path)
    with tf.Graph().as_default():
        exec(compile(code, "docs/tensorflow_graph.md", "exec"), {})
    words = ("<cls>", *WORDS[len(SYMBOLS.split()) :], "<sep>")
    ids = [WORDS.index(word) for word in words]
    padded = np.array([ids + [WORDS.index("<pad>")] * (128 - len(ids))])
    mask = np.arange(128)[None] < len(ids)
    segments = np.array([[2] + [0] * 127])
    expected = FeatureExtractor(checkpoint).extract(padded, segments, mask.astype(np.int64))
    with np.load(tmp_path / "features.npz") as found:
        assert found["decoder"].shape == (1, len(ids), 16)
        np.testing.assert_allclose(found["summary"], expected["summary"], atol=1e-5)
        np.testing.assert_allclose(found["decoder"], expected["decoder"][:, : len(ids)], atol=1e-5)
