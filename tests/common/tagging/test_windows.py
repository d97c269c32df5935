"""Words to pieces and back: labels on first pieces, and windows that leave no word out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.config.tagging import TaggingWindows
from funnel.features.tagging.windows import (
    IGNORED,
    choose_windows,
    cut_windows,
    encode_sentences,
)
from funnel.utils.errors import ConfigError
from task_files import LetterTokenizer

SENTENCES = [["ab", "c", "def"], ["g"], ["h", "ij", "k", "lm", "n", "op", "q"]]
TAGS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]


def _encode(max_length=8, overlap=2, sentences=SENTENCES, tags=TAGS):
    windows = TaggingWindows(max_length, overlap)
    return encode_sentences(sentences, tags, LetterTokenizer(), windows)


def test_labels_are_on_first_pieces():
    found = _encode()
    batch = found.pad([0, 1], 10, 0)
    row = [1, *map(ord, "abcdef"), 2, 0, 0]
    assert batch["input_ids"][0].tolist() == row
    assert batch["token_type_ids"][0].tolist() == [2, *[0] * 9]
    assert batch["attention_mask"].sum(1).tolist() == [8, 3]
    assert batch["word_positions"][0].tolist()[:3] == [1, 3, 4]
    assert batch["labels"][:, :3].tolist() == [[1, 2, 3], [4, IGNORED, IGNORED]]
    pieces = found.label_pieces(np.array([0]), 10, -1)
    assert pieces.tolist() == [[-1, 1, -1, 2, 3, -1, -1, -1, -1, -1]]
    with pytest.raises(ValueError, match="8 tokens, more than 7"):
        found.pad([0], 7, 0)


def test_long_sentences_are_windows_and_every_word_has_a_value(caplog):
    found = _encode()
    assert (found.counts.sentences, found.counts.windows, found.counts.longest) == (1, 2, 12)
    everything = found.pad(np.arange(len(found)), 8, 0)
    by_word = found.by_word(everything["labels"])
    assert by_word.tolist() == [tag for tags in TAGS for tag in tags]
    assert found.by_sentence(by_word) == TAGS
    pieces = found.label_pieces(np.arange(len(found)), 8, IGNORED)
    assert (found.by_word(pieces, at_positions=True) == by_word).all()
    assert int((pieces != IGNORED).sum()) == 11
    with caplog.at_level("INFO"):
        found.counts.log("dev", 8)
    assert "1 sentences longer than 8 tokens were cut into 2 windows" in caplog.text


def test_odd_words():
    found = _encode(6, 1, [["abcdefgh", "i"], ["\u200b \u3000", "j"]], None)
    assert found.counts.cut_words == 1 and found.labels is None
    assert "labels" not in found.pad([0], 6, 0)
    assert found.pad([0], 6, 0)["input_ids"].tolist() == [[1, *map(ord, "abcd"), 2]]
    empty = encode_sentences([["\u3000", "j"]], None, LetterTokenizer(), TaggingWindows(6, 1))
    assert empty.counts.empty_words == 1 and empty.pad([0], 4, 0)["input_ids"][0, 1] == 3
    assert len(found.by_word(np.zeros((len(found), found.width)))) == 4


@pytest.mark.parametrize("settings", [(2, 0), (8, 6), (8, -1)])
def test_wrong_windows(settings):
    with pytest.raises(ConfigError):
        TaggingWindows(*settings)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    room=st.integers(1, 12),
    overlap=st.integers(0, 12),
)
def test_windows_cover_every_word_in_order(sizes, room, overlap):
    windows = cut_windows(sizes, room, min(overlap, room - 1))
    covered = [word for begin, end in windows for word in range(begin, end)]
    assert sorted(set(covered)) == list(range(len(sizes)))
    assert windows[0][0] == 0 and windows[-1][1] == len(sizes)
    for (begin, end), (after, until) in itertools.pairwise(windows):
        assert begin < after <= end < until
        assert sum(sizes[after:end]) <= min(overlap, room - 1)
    for begin, end in windows:
        assert sum(sizes[begin:end]) <= room or end == begin + 1
    owners = choose_windows(len(sizes), windows)
    for word, number in enumerate(owners):
        assert windows[number][0] <= word < windows[number][1]


def test_the_default_overlap_fits_short_sequences():
    found = [TaggingWindows(length).overlap for length in (3, 4, 32, 34, 35, 128)]
    assert found == [0, 1, 8, 8, 32, 32]
    with pytest.raises(ConfigError, match="overlap=31: must be at most"):
        TaggingWindows(32, 31)
