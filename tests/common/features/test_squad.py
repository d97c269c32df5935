"""Windows of SQuAD questions, by hand and against a slow reference implementation."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import squad_reference
from funnel.features.classification import SegmentIds
from funnel.features.pair_sequences import cut_windows
from funnel.features.squad import (
    EncodedParagraphs,
    WindowConfig,
    build_windows,
    encode_paragraphs,
)
from funnel.tasks.squad import SquadData
from funnel.utils.errors import ConfigError, DataError
from squad_cases import CLS, PAD, SEP, WordTokenizer, squad_data

WORDS = " ".join(f"w{i}" for i in range(10))  # a paragraph of ten tokens
SMALL = WindowConfig(max_seq_length=10, max_query_length=2, doc_stride=3)


def _one(golds=("w4 w5",), query="who did that", config=SMALL, **more):
    tokenizer = WordTokenizer()
    data = squad_data((WORDS, ("a", query, None if golds is None else list(golds))))
    return build_windows(data, tokenizer, config, **more), tokenizer


def test_windows_of_one_question_by_hand():
    windows, tokenizer = _one()
    who, did = tokenizer.encode_batch(["who did"])[0]
    words = tokenizer.encode_batch([WORDS])[0]
    batch = windows.pad(range(len(windows)), 11, PAD)
    # The question keeps two tokens, so five are left for the paragraph.
    assert batch["input_ids"].tolist() == [
        [CLS, who, did, SEP, *words[0:5], SEP, PAD],
        [CLS, who, did, SEP, *words[3:8], SEP, PAD],
        [CLS, who, did, SEP, *words[6:10], SEP, PAD, PAD],
    ]
    assert batch["token_type_ids"].tolist() == [
        [2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch["p_mask"].tolist() == [
        [0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1],
        [0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1],
        [0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert batch["cls_index"].tolist() == [0, 0, 0]
    assert "start_positions" not in batch
    assert windows.unique_ids.tolist() == [10**9, 10**9 + 1, 10**9 + 2]
    assert windows.paragraph_begin.tolist() == [4, 4, 4]
    assert windows.paragraph_end.tolist() == [9, 9, 8]
    assert windows.first_token.tolist() == [0, 3, 6]


def test_segment_ids_are_settings():
    config = WindowConfig(10, 2, 3, SegmentIds(cls=5, a=6, b=7, pad=8))
    windows, _ = _one(config=config)
    assert windows.pad([2], 10, PAD)["token_type_ids"].tolist() == [[5, 7, 7, 7, *[6] * 5, 8]]


def test_targets_of_training():
    windows, _ = _one(golds=["w4 w5", "w0"], training=True)
    # Tokens 4 and 5: cut in two by the first window, complete in the second, not in the third.
    assert windows.start_positions.tolist() == [0, 5, 0]
    assert windows.end_positions.tolist() == [0, 6, 0]
    assert windows.pad([0, 1], 10, PAD)["is_impossible"].tolist() == [1, 0]
    windows, _ = _one(golds=["w4"], training=True)
    assert windows.start_positions.tolist() == windows.end_positions.tolist() == [8, 5, 0]


def test_an_answer_takes_the_tokens_it_overlaps():
    # From the last letter of w3 to the first of w5.
    windows, _ = _one(golds=["3 w4 w"], training=True)
    assert (windows.start_positions.tolist(), windows.end_positions.tolist()) == (
        [0, 4, 0],
        [0, 6, 0],
    )


def test_tokens_that_merely_touch_do_not_overlap():
    offsets = np.array([[0, 2], [2, 4], [4, 5]], np.int32).T
    paragraphs = EncodedParagraphs(np.arange(3, dtype=np.int32), *offsets, np.array([0, 3]))
    assert paragraphs.find_overlapping(0, 2, 4) == (1, 1)
    assert paragraphs.find_overlapping(0, 1, 5) == (0, 2)
    assert paragraphs.find_overlapping(0, 5, 9) is None
    assert paragraphs.characters(0, 1, 2) == (2, 5)


def test_unanswerable_questions_point_at_cls():
    windows, _ = _one(golds=[], training=True)
    assert windows.start_positions.tolist() == windows.end_positions.tolist() == [0, 0, 0]
    assert windows.pad([0, 1, 2], 10, PAD)["is_impossible"].tolist() == [1, 1, 1]


def test_answers_that_cannot_be_found_are_left_out_of_training(caplog):
    asked = [("a", "q", ["w1"]), ("b", "q", ["nowhere"]), ("c", "q", ["w2"])]
    data = squad_data((WORDS, *asked))
    with caplog.at_level(logging.WARNING):
        windows = build_windows(data, WordTokenizer(), training=True)
    assert windows.question.tolist() == [0, 2]
    assert "(b): its answer cannot be found" in caplog.text
    assert build_windows(data, WordTokenizer()).question.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="no question is left to train on"):
        build_windows(squad_data((WORDS, asked[1])), WordTokenizer(), training=True)
    with pytest.raises(DataError, match="answers is missing, needed to train"):
        _one(golds=None, training=True)


def test_questions_are_shuffled_by_seed_with_all_their_windows():
    paragraphs = [(WORDS, (f"q{i}", f"x{i} y", [f"w{i}"])) for i in range(10)]
    data = squad_data(*paragraphs)
    plain, one, again, two = (
        build_windows(data, WordTokenizer(), SMALL, training=True, seed=seed)
        for seed in (None, 1, 1, 2)
    )
    assert plain.question.tolist() == np.repeat(np.arange(10), 3).tolist()
    assert one.question.tolist() == again.question.tolist() != two.question.tolist()
    assert sorted(one.question.tolist()) == plain.question.tolist()
    assert (np.diff(one.question.reshape(10, 3), axis=1) == 0).all()
    for windows in (one, two):
        for w in np.flatnonzero(windows.start_positions):
            token = windows.start_positions[w] - windows.paragraph_begin[w] + windows.first_token[w]
            assert token == windows.question[w]


def test_a_paragraph_is_tokenized_once_and_only_if_asked_about():
    data = squad_data((WORDS, ("a", "q1", []), ("b", "q2", [])), ("unasked words",))
    tokenizer = WordTokenizer()
    windows = build_windows(data, tokenizer)
    assert tokenizer.encoded == [WORDS, "q1", "q2"]
    assert np.diff(windows.paragraphs.offsets).tolist() == [10, 0]


def test_empty_questions_and_paragraphs_have_a_window():
    data = squad_data((" ", ("a", "", [])), (WORDS, ("b", "", [])))
    windows = build_windows(data, WordTokenizer())
    assert windows.lengths.tolist() == [3, 13]
    batch = windows.pad([0], 4, PAD)
    assert batch["input_ids"].tolist() == [[CLS, SEP, SEP, PAD]]
    assert batch["p_mask"].tolist() == [[0, 1, 1, 1]]
    assert windows.context_begin[0] == windows.context_end[0]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="max_seq_length=67: at least 68"):
        WindowConfig(max_seq_length=67)
    with pytest.raises(ConfigError, match="doc_stride=0"):
        WindowConfig(doc_stride=0)
    with pytest.raises(ConfigError, match="max_query_length=0"):
        WindowConfig(max_query_length=0)
    with pytest.raises(ValueError, match="more than the length 9"):
        _one()[0].pad([0], 9, PAD)


def test_context_of_equals_goes_to_the_first_window():
    # Token 5 has two tokens on its smaller side in both windows of eight.
    first, second = cut_windows(11, 8, 3)
    assert (first[:2], second[:2]) == ((0, 8), (3, 8))
    assert (first.context_first, first.context_end) == (0, 6)
    assert (second.context_first, second.context_end) == (6, 11)


def test_a_hundredth_of_the_length_outweighs_a_token():
    # Token 214 has 85 tokens on its smaller side in a window of 300, 86 in one of 182.
    first, second = cut_windows(310, 300, 128)
    assert (first.length, second.length) == (300, 182)
    assert (first.context_end, second.context_first) == (215, 215)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400), st.integers(1, 160), st.integers(1, 170))
def test_windows_and_contexts_are_those_of_the_definition(tokens, room, stride):
    cuts = squad_reference.cut_windows(tokens, room, stride)
    windows = cut_windows(tokens, room, stride)
    assert [window[:2] for window in windows] == cuts
    for index, window in enumerate(windows):
        won = [t for t in range(tokens) if squad_reference.has_most_context(cuts, index, t)]
        assert won == list(range(window.context_first, window.context_end))


def test_a_long_text_is_cut_in_linear_time():
    windows = cut_windows(300_000, 400, 128)
    assert windows[-1].context_end == 300_000
    assert len(windows) == 1 + -(-(300_000 - 400) // 128)


def test_subset_of_questions_keeps_its_paragraphs():
    data = squad_data((WORDS, ("a", "q", [])), ("x y", ("b", "q", [])))
    part = SquadData(data.path, data.paragraphs, data.questions[1:])
    windows = build_windows(part, WordTokenizer())
    assert (windows.question.tolist(), windows.paragraph.tolist()) == ([0], [1])


def test_processes_that_share_the_work_change_nothing():
    texts, wanted = ["a b", "", "c", "d e f", "g"], {0, 1, 3, 4}
    tokenizer = WordTokenizer()
    tokenizer.encode_batch(texts)  # ids go by first use, and each process counts for itself
    alone = encode_paragraphs(texts, tokenizer, wanted)
    shared = encode_paragraphs(texts, tokenizer, wanted, num_proc=2)
    for name, array in vars(alone).items():
        assert np.array_equal(array, getattr(shared, name))
        assert array.dtype == getattr(shared, name).dtype
