"""Words to tag without a framework: the sequences of predict.py are those of tagger.py."""

import numpy as np
import pytest

from funnel.config.inputs import SegmentIds
from funnel.config.model import ModelConfig
from funnel.config.tagging import TaggingWindows
from funnel.features.tagging.windows import encode_sentences
from funnel.inference.encoding import EncodingConfig
from funnel.inference.engine import Engine
from funnel.inference.rows import RowFormat
from funnel.tokenization import get_tokenizer

CONFIG = ModelConfig(vocab_size=9, d_model=8, n_head=2, d_head=4, d_inner=8, block_size="1_1")
SENTENCES = [["a"], ["a", "\u200b", "b"], [], ["a", "b", "abba", "b"] * 20, ["b"] * 3]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("<unk>\n<s>\n</s>\n<cls>\n<sep>\n<pad>\n<mask>\na\nb\n")
    return get_tokenizer("word_piece", path)


def compute(arrays):
    """Logits that depend on the token, and on how many tokens its sequence has."""
    assert set(arrays) == {"input_ids", "attention_mask", "token_type_ids"}
    ids = arrays["input_ids"].astype(np.float32)
    total = arrays["attention_mask"].sum(axis=1, keepdims=True) + 0 * ids
    return {"logits": np.stack([ids, total / 7], axis=2).astype(np.float32)}


def test_every_word_is_predicted_as_by_the_program_that_trains(tokenizer):
    form = RowFormat("token_classification", ("x", "y"), write_logits=True)
    encoding = EncodingConfig(tokenizer, 16, overlap=4)
    engine = Engine(compute, CONFIG, form, encoding, batch_size=3)
    rows = list(engine.rows(SENTENCES))
    features = encode_sentences(SENTENCES, None, tokenizer, TaggingWindows(16, 4, SegmentIds()))
    batch = features.pad(np.arange(len(features)), 16, tokenizer.special.pad_id)
    batch.pop("word_positions")
    words = features.by_word(compute(batch)["logits"], at_positions=True)
    found = np.concatenate([np.reshape(row["logits"], (-1, 2)) for row in rows])
    assert np.allclose(found, words, atol=1e-6) and len(found) == 87
    assert [row["words"] for row in rows] == SENTENCES
    assert [len(row["label"]) for row in rows] == [1, 3, 0, 80, 3]
    counts = engine.counts
    assert (counts.texts, counts.truncated, counts.unit) == (5, 1, "sentences")
    assert counts.windows > 5
    assert counts.unknown == 21  # "abba", and the word that has no token
