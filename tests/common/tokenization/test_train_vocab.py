"""Vocabularies built from text: reproducible, complete, and of use to the tokenizers."""

import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import repo_layout
from funnel.tokenization import get_tokenizer
from funnel.tokenization.train_vocab import (
    VocabularyConfig,
    build_vocabulary,
    read_lines,
    train_wordpiece,
)
from funnel.utils.errors import DataError, FunnelError, TokenizerError
from text_reference import SPECIAL

LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "Transformers transform; funnels funnel the transformed sequence.",
    "Caf\u00e9 au lait, na\u00efve \u4e2d\u56fd \u65e5\u672c text (1999) about foxes and dogs!",
    "",
] * 5


def reference_merges(words, count, at_least):
    """Count every pair again before every merge; ties go to the first pair in the alphabet."""
    split = {word: [word[0], *("##" + char for char in word[1:])] for word in words}
    merged = []
    while len(set(merged)) < count:
        pairs = Counter()
        for word, pieces in split.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < at_least:
            break
        new = best[0] + best[1][2:]
        for pieces in split.values():
            i = 0
            while i + 1 < len(pieces):
                if (pieces[i], pieces[i + 1]) == best:
                    pieces[i : i + 2] = [new]
                i += 1
        merged.append(new)
    return list(dict.fromkeys(merged))


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=9), st.integers(1, 5), min_size=1),
    st.integers(0, 25),
    st.integers(1, 3),
)
def test_merges_equal_counting_again_every_time(words, count, at_least):
    lines = [word for word, times in words.items() for _ in range(times)]
    characters = sorted(set("".join(words)))
    first = [*SPECIAL, *characters, *("##" + char for char in characters)]
    config = VocabularyConfig(vocab_size=len(first) + count, min_frequency=at_least)
    expected = first + reference_merges(words, count, at_least)
    assert train_wordpiece(lines, config) == expected[: config.vocab_size]


def test_word_piece_starts_with_the_special_tokens_and_covers_every_character(tmp_path):
    size = build_vocabulary(LINES, tmp_path / "v.txt", VocabularyConfig(vocab_size=150))
    entries = (tmp_path / "v.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(entries) == size == 150 == len(set(entries))
    assert entries[:9] == SPECIAL
    # A letter can continue a word, punctuation and ideographs cannot.
    assert {"z", "##z", ",", "\u4e2d"} <= set(entries)
    assert not {"##,", "##\u4e2d", "##."} & set(entries)
    tokenizer = get_tokenizer("word_piece", tmp_path / "v.txt")
    assert tokenizer.special.unk_id not in tokenizer.encode("zyx \u4e2d, quack! Jumping foxes")
    assert tokenizer.tokenize("the dog") == ["the", "dog"]


def test_case_is_as_asked(tmp_path):
    config = VocabularyConfig(vocab_size=200, uncased=False)
    entries = train_wordpiece(LINES, config)
    assert {"T", "\u00e9", "\u00ef"} <= set("".join(entries))
    assert not {"T", "\u00e9", "\u00ef"} & set("".join(train_wordpiece(LINES, VocabularyConfig())))


def test_rare_characters_beyond_the_limit_are_left_out():
    lines = ["aab aba b" * 3, "\u4e2d x"]
    entries = train_wordpiece(lines, VocabularyConfig(vocab_size=100, max_characters=2))
    assert set("".join(entries[9:])) == set("ab#")


def test_min_frequency_ends_the_merging():
    lines = ["abc abc abd"]
    often = train_wordpiece(lines, VocabularyConfig(vocab_size=100, min_frequency=3))
    assert often[17:] == ["ab"]
    assert train_wordpiece(lines, VocabularyConfig(vocab_size=100, min_frequency=1))[-1] == "abd"


def test_order_of_the_lines_does_not_matter():
    shuffled = LINES.copy()
    random.Random(0).shuffle(shuffled)
    config = VocabularyConfig(vocab_size=200, min_frequency=1)
    assert train_wordpiece(shuffled, config) == train_wordpiece(LINES, config)


@pytest.mark.parametrize("kind", ["word_piece", "sent_piece"])
def test_bytes_are_the_same_in_every_process(tmp_path, kind):
    """Ties must not be broken by hashes, which differ from process to process."""
    code = (
        "import sys; from funnel.tokenization.train_vocab import *; "
        f"config = VocabularyConfig(kind={kind!r}, vocab_size=150); "
        "build_vocabulary(read_lines(sys.argv[1:2]), sys.argv[2], config)"
    )
    text = tmp_path / "text.txt"
    text.write_text("\n".join(LINES), encoding="utf-8")
    outputs = []
    for seed in ("1", "2"):
        output = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        environment["PYTHONPATH"] = str(repo_layout.LIBRARIES["funnel"].parent)
        command = [sys.executable, "-c", code, str(text), str(output)]
        subprocess.run(command, check=True, env=environment)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]


def test_sentence_piece_model_has_the_special_tokens_in_order(tmp_path):
    config = VocabularyConfig(kind="sent_piece", vocab_size=120)
    size = build_vocabulary(LINES, tmp_path / "m", config)
    tokenizer = get_tokenizer("sent_piece", tmp_path / "m")
    assert tokenizer.vocab_size == size <= 120
    assert tokenizer.convert_ids_to_tokens(range(9)) == SPECIAL
    assert tokenizer.decode(tokenizer.encode("The lazy fox, caf\u00e9")) == "the lazy fox, cafe"
    assert tokenizer.special.cls_id not in tokenizer.encode("<cls>")


@pytest.mark.parametrize("kind", ["word_piece", "sent_piece"])
def test_no_text_and_too_small_a_size_are_errors(tmp_path, kind):
    with pytest.raises(DataError, match="there is no text"):
        build_vocabulary(["", "  "], tmp_path / "v", VocabularyConfig(kind=kind))
    with pytest.raises(TokenizerError, match=r"20"):
        build_vocabulary(LINES, tmp_path / "v", VocabularyConfig(kind=kind, vocab_size=20))
    assert not (tmp_path / "v").exists()


def test_a_small_text_gives_fewer_entries_and_says_so(tmp_path, caplog):
    size = build_vocabulary(["ab ab"], tmp_path / "v", VocabularyConfig(vocab_size=100))
    assert size == 14
    assert "14 entries of 100" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"kind": "bpe"}, "'bpe' is unknown"), ({"vocab_size": 0}, "vocab_size is 0")],
)
def test_wrong_settings_are_errors(wrong, message):
    with pytest.raises(TokenizerError, match=message):
        VocabularyConfig(**wrong)


def test_lines_are_read_one_file_after_another(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffone\r\ntwo \u2028 same\n\n".encode())
    (tmp_path / "b").write_bytes(b"last")
    lines = list(read_lines([tmp_path / "a", tmp_path / "b"]))
    assert lines == ["one", "two \u2028 same", "", "last"]
    (tmp_path / "c").write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match="c, line 2: not UTF-8"):
        list(read_lines([tmp_path / "c"]))
    with pytest.raises(FunnelError, match="none: cannot be read"):
        list(read_lines([tmp_path / "none"]))


def _messages(caplog):
    return [record.getMessage() for record in caplog.records]


def test_dropped_characters_are_counted(caplog):
    caplog.set_level("INFO", "funnel")
    lines = ["aab aba b" * 3, "\u4e2d x x"]
    train_wordpiece(lines, VocabularyConfig(vocab_size=100, max_characters=2))
    (message,) = _messages(caplog)
    assert message.startswith("2 of 4 distinct characters are in no entry, 3 occurrences (12.500 %")
    assert "all but the 2 most frequent, 'x', '\u4e2d'; words with them will be" in message
    caplog.clear()
    train_wordpiece(lines, VocabularyConfig(vocab_size=100))
    assert _messages(caplog) == ["all 4 distinct characters of the text are in the vocabulary"]


def test_characters_that_sentencepiece_drops_are_counted(tmp_path, caplog):
    """Its trainer covers 99.95 % of the characters, and says nothing about the others."""
    caplog.set_level("INFO", "funnel")
    lines = [*LINES * 60, "\u4e2d \u65e5 \u672c"]
    config = VocabularyConfig(kind="sent_piece", vocab_size=90)
    build_vocabulary([*lines[3:], "\u0436"], tmp_path / "m", config)
    (message,) = [text for text in _messages(caplog) if "distinct characters" in text]
    tokenizer = get_tokenizer("sent_piece", tmp_path / "m")
    assert tokenizer.special.unk_id in tokenizer.encode("\u0436")
    assert "are in no entry" in message and "'\u0436'" in message
    assert "'e'" not in message and "'t'" not in message


def test_long_words_are_counted(caplog):
    train_wordpiece(["a b", "x" * 201 + " " + "y" * 200], VocabularyConfig())
    (message,) = [text for text in _messages(caplog) if "200 characters" in text]
    assert message == "1 words of more than 200 characters are left out: they are always unknown"


def test_rare_words_are_dropped_to_bound_memory(caplog):
    """Their characters still count, and the order of the lines of one batch does not matter."""
    caplog.set_level("INFO", "funnel")
    frequent = ["abc abd bcd"] * 20
    rare = [f"{first}{second}q" for first in "efgh" for second in "abcdef"]
    unlimited = train_wordpiece(frequent + rare, VocabularyConfig(vocab_size=60, min_frequency=9))
    caplog.clear()
    config = VocabularyConfig(vocab_size=60, min_frequency=9, max_words=8)
    assert train_wordpiece(frequent + rare, config) == unlimited
    assert train_wordpiece(rare[::-1] + frequent, config) == unlimited
    assert "more than 8 distinct words: 23 occurrences of rare ones, 27.38 %" in caplog.text


def test_a_sample_bounds_the_memory_of_sentencepiece(tmp_path, caplog):
    caplog.set_level("INFO", "funnel")
    lines = [f"line {word} of the text" for word in ("red", "blue") for _ in range(200)]
    config = VocabularyConfig(kind="sent_piece", vocab_size=40, sample_characters=2000)
    build_vocabulary(iter(lines), tmp_path / "m", config)
    assert "more than 2000 characters: trained on 50 of 400 lines" in caplog.text
    tokenizer = get_tokenizer("sent_piece", tmp_path / "m")
    assert tokenizer.special.unk_id not in tokenizer.encode("blue red")


def test_memory_does_not_grow_with_the_number_of_lines(monkeypatch):
    monkeypatch.setattr("funnel.tokenization.word_table.MAX_CHUNKS", 100)

    def peak(count):
        lines = (f"w{number} the same text" for number in range(count))
        tracemalloc.start()
        try:
            train_wordpiece(lines, VocabularyConfig(vocab_size=60, max_words=200))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(300)
    assert peak(20000) < 1.5 * peak(1000)
