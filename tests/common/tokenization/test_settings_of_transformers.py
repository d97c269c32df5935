"""Settings of tokenizers of transformers that other results would follow from there."""

import json
import logging

import pytest

from funnel.config.inputs import SegmentIds
from funnel.tokenization.choice import load_tokenizer, warn_of_length

TOKENS = ("<unk>", "<cls>", "<sep>", "<pad>", "<mask>", "red")
TYPES = ["input_ids", "token_type_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("more", "cls", "is_said"),
    [
        ({}, 2, True),
        ({"tokenizer_class": "FunnelTokenizer"}, 2, True),
        ({"tokenizer_class": "FunnelTokenizer", "model_input_names": TYPES}, 2, False),
        ({"tokenizer_class": "FunnelTokenizer", "model_input_names": TYPES[::2]}, 0, False),
        ({"tokenizer_class": "BertTokenizer"}, 2, False),  # transformers gives segment ids
    ],
)
def test_segment_ids_that_transformers_leaves_out_are_said_once(
    tmp_path, caplog, more, cls, is_said
):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"do_lower_case": True, "model_max_length": 512, **more}))
    with caplog.at_level(logging.WARNING):
        found = [load_tokenizer(tmp_path).segments.cls for _ in range(2)]
    assert found == [cls, cls]
    assert SegmentIds().cls == 2
    said = [text for text in caplog.messages if "model_input_names" in text]
    assert len(said) == is_said
    assert all(text.startswith(f"{path}: ") for text in said)


@pytest.mark.parametrize(("side", "count"), [("left", 1), ("right", 0), (None, 0)])
def test_another_side_of_truncation_is_said(tmp_path, caplog, side, count):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    more = {} if side is None else {"truncation_side": side}
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "FunnelTokenizer", **more}))
    with caplog.at_level(logging.WARNING):
        load_tokenizer(tmp_path)
    assert sum(text.startswith(f"{path}: truncation_side") for text in caplog.messages) == count


@pytest.mark.parametrize(
    ("stated", "count"),
    [(256, 1), (512, 0), (10**30, 0), (None, 0), (1e30, 0), (True, 0), ("256", 0)],
)
def test_a_shorter_length_of_transformers_is_said_once(tmp_path, caplog, stated, count):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"model_input_names": TYPES, "model_max_length": stated}))
    tokenizer, other = load_tokenizer(tmp_path), load_tokenizer(tmp_path / "vocab.txt")
    path.write_text(json.dumps({"model_input_names": TYPES}))
    assert tokenizer.fingerprint == load_tokenizer(tmp_path).fingerprint  # decides no id
    with caplog.at_level(logging.WARNING):
        for one in (tokenizer, other):
            warn_of_length(one, 256)
            warn_of_length(one, 512)
    told = f"{path}: model_max_length is 256, to which transformers cuts texts; here sequences"
    said = [text for text in caplog.messages if "model_max_length" in text]
    assert [text.startswith(told) and "512 tokens" in text for text in said] == [True] * count
