"""The lengths with which both taggers cut sentences for a model that they do not train."""

import json
import logging

import pytest

from funnel.cli.tagging import windows_as_trained
from funnel.config.tagging import TaggingWindows

RECORDED = {"max_length": 48, "overlap": 6}


@pytest.mark.parametrize(
    ("recorded", "given", "asked", "length", "overlap", "said"),
    [
        (RECORDED, (), {}, 48, 6, "sequences of 48 tokens, as in training"),
        ({"max_seq_length": 48}, (), {}, 48, 32, "sequences of 48 tokens, as in training"),
        ({"max_seq_length": 16}, (), {}, 16, 4, "sequences of 16 tokens, as in training"),
        (RECORDED, ("overlap",), {"overlap": 9}, 48, 9, "sequences of 48 tokens, as in training"),
        (RECORDED, ("max_length",), {}, 128, 32, ""),
        (RECORDED, ("max_seq_length",), {}, 128, 32, ""),
        (RECORDED, (), {"max_length": 64}, 64, 32, ""),
        ({}, (), {}, 128, 32, "sequences of 128 tokens, the default"),
        (None, (), {}, 128, 32, "sequences of 128 tokens, the default"),
    ],
)
def test_the_recorded_lengths_are_the_default(
    tmp_path, caplog, recorded, given, asked, length, overlap, said
):
    if recorded is not None:
        (tmp_path / "run_config.json").write_text(json.dumps({"settings": recorded}))
    (tmp_path / "best").mkdir()
    with caplog.at_level(logging.INFO):
        found = windows_as_trained(TaggingWindows(**asked), tmp_path / "best", given)
    assert (found.max_length, found.overlap) == (length, overlap)
    assert len(caplog.messages) == bool(said)
    assert all(text.startswith(str(tmp_path)) and said in text for text in caplog.messages)
