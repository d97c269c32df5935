"""Answers from beams: by hand, and against a slow reference on random beams."""

import json
import math

import numpy as np
import pytest

import squad_reference
from funnel.features.squad import WindowConfig, build_windows
from funnel.features.squad_predictions import (
    AnswerSettings,
    BeamOutputs,
    SquadAnswers,
    combine_answers,
    find_answers,
    write_answers,
)
from funnel.utils.errors import RunError
from squad_cases import WordTokenizer, beams, squad_data

# Question "q" is one token: the paragraph begins at position 3.
PARAGRAPH = "Zero, one  two\tthree FOUR"


def _answer(rows, cls_logits=None, paragraph=PARAGRAPH, **settings):
    data = squad_data((paragraph, ("a", "q", None)))
    windows = build_windows(data, WordTokenizer())
    return find_answers(data, windows, beams(rows, cls_logits), AnswerSettings(**settings))


def test_answers_are_cut_from_the_paragraph_as_written():
    answers = _answer([(3, -1.0, [(5, -1.0), (3, -2.0), (7, -3.0)])], [0.25])
    texts = [entry["text"] for entry in answers.nbest["a"]]
    assert texts == ["Zero, one  two", "Zero,", PARAGRAPH]
    assert answers.predictions == {"a": "Zero, one  two"}
    assert answers.null_odds == {"a": 0.25}
    first = answers.nbest["a"][0]
    assert (first["start_log_prob"], first["end_log_prob"]) == (-1.0, -1.0)
    expected = squad_reference.softmax([-2.0, -3.0, -4.0])
    assert [e["probability"] for e in answers.nbest["a"]] == pytest.approx(expected, abs=1e-12)


def test_impossible_spans_are_dropped():
    ends = [(4, -9.0), (3, -0.1), (8, -0.2), (0, -0.1), (9, -0.1)]
    # The start is token 1 (position 4): one end before it, one [SEP], [CLS], one past the end.
    assert [e["text"] for e in _answer([(4, 0.0, ends)]).nbest["a"]] == ["one"]
    # Starts at [CLS], in the question, on a [SEP].
    for start in (0, 1, 2, 8):
        answers = _answer([(start, 0.0, [(5, 0.0)])], [-3.0])
        expected = {"text": "", "probability": 1.0, "start_log_prob": -1e6, "end_log_prob": -1e6}
        assert answers.nbest == {"a": [expected]}
        assert answers.predictions == {"a": ""}
        assert answers.null_odds == {"a": -3.0}


def test_longest_answer_counts_tokens():
    rows = [(3, 0.0, [(5, -1.0), (4, -2.0)])]
    assert _answer(rows, max_answer_length=3).predictions == {"a": "Zero, one  two"}
    assert _answer(rows, max_answer_length=2).predictions == {"a": "Zero, one"}


def test_nbest_holds_different_texts_and_breaks_ties_by_order():
    rows = [(3, 0.0, [(3, -2.0), (4, -1.0), (5, -1.0)])]
    paragraph = "same same same"
    texts = [e["text"] for e in _answer(rows, paragraph=paragraph).nbest["a"]]
    assert texts == ["same same", "same same same", "same"]
    rows = [(3, 0.0, [(3, -2.0)])]
    data = squad_data((paragraph, ("a", "q", None)))
    windows = build_windows(data, WordTokenizer())
    two_starts = BeamOutputs(
        np.array([[0.0, 0.0]]),
        np.array([[3, 4]]),
        np.array([[-1.0, -2.0, -1.5, -3.0]]),
        np.array([[3, 4, 4, 5]]),
        np.array([0.0]),
    )
    nbest = find_answers(data, windows, two_starts).nbest["a"]
    assert [(e["text"], e["end_log_prob"]) for e in nbest] == [("same", -1.0), ("same same", -2.0)]
    nbest = find_answers(data, windows, two_starts, AnswerSettings(n_best_size=1)).nbest["a"]
    assert [(e["text"], e["probability"]) for e in nbest] == [("same", 1.0)]


def _two_windows():
    """Tokens w0..w3 and w2..w5; w0, w1, w2 count in the first, w3, w4, w5 in the second."""
    data = squad_data((" ".join(f"w{i}" for i in range(6)), ("a", "q", None)))
    windows = build_windows(data, WordTokenizer(), WindowConfig(8, 1, 2))
    assert windows.first_token.tolist() == [0, 2]
    return data, windows


def test_a_span_counts_where_its_start_has_most_context():
    data, windows = _two_windows()
    # w3 in the first window (position 6) and w2 in the second (position 3) do not count.
    rows = [(6, 0.0, [(6, 0.0)]), (3, 0.0, [(3, 0.0)])]
    assert find_answers(data, windows, beams(rows)).predictions == {"a": ""}
    # w2 in the first window does, though its end w3 has more context in the second.
    rows = [(5, -1.0, [(6, 0.0)]), (4, -2.0, [(4, 0.0)])]
    texts = [e["text"] for e in find_answers(data, windows, beams(rows)).nbest["a"]]
    assert texts == ["w2 w3", "w3"]


def test_null_odds_are_the_lowest_of_all_windows():
    data, windows = _two_windows()
    rows = [(5, -1.0, [(6, -0.5)]), (4, -2.0, [(4, 0.0)])]
    scores = beams(rows, [-4.0, -7.0])
    assert find_answers(data, windows, scores).null_odds == {"a": -7.0}
    without = AnswerSettings(use_answer_class=False)
    assert find_answers(data, windows, scores, without).null_odds == {"a": -7.0 - -1.5}
    nothing = beams([(0, 0.0, [(0, 0.0)])] * 2, [-4.0, -7.0])
    odds = find_answers(data, windows, nothing, without).null_odds["a"]
    assert math.isfinite(odds) and odds > 1e6 - 10


@pytest.mark.parametrize("conditional_end", [True, False])
@pytest.mark.parametrize("use_answer_class", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_random_beams_equal_the_reference(seed, use_answer_class, conditional_end):
    random = np.random.default_rng(seed)
    paragraphs = []
    for p in range(6):
        words = " ".join(f"w{random.integers(4)}" for _ in range(random.integers(1, 30)))
        paragraphs.append((words, *((f"{p}-{q}", "q " * q, None) for q in range(3))))
    data = squad_data(*paragraphs)
    windows = build_windows(data, WordTokenizer(), WindowConfig(12, 3, 4), seed=seed)
    count, starts, ends = len(windows), 4, 3
    width = starts * ends if conditional_end else ends
    scores = BeamOutputs(
        np.round(-3 * random.random((count, starts)), 1),
        random.integers(0, 14, (count, starts)),
        np.round(-3 * random.random((count, width)), 1),
        random.integers(0, 14, (count, width)),
        random.standard_normal(count),
    )
    settings = {"n_best_size": 4, "max_answer_length": 5}
    settings |= {"conditional_end": conditional_end, "use_answer_class": use_answer_class}
    answers = find_answers(data, windows, scores, AnswerSettings(**settings))
    expected = squad_reference.find_answers(data, windows, scores, settings | {"ends": ends})
    assert answers.predictions.keys() == expected.keys()
    for name, (nbest, null) in expected.items():
        assert answers.predictions[name] == nbest[0][0]
        assert [entry["text"] for entry in answers.nbest[name]] == [text for text, _ in nbest]
        shares = squad_reference.softmax([score for _, score in nbest])
        found = [entry["probability"] for entry in answers.nbest[name]]
        assert found == pytest.approx(shares, abs=1e-12)
        assert answers.null_odds[name] == pytest.approx(null, abs=1e-9)


def test_scores_that_do_not_fit_or_are_no_numbers():
    row = (3, 0.0, [(3, 0.0)])
    with pytest.raises(ValueError, match="scores of 2 windows for 1"):
        _answer([row, row])
    for broken in ([(3, math.nan, [(3, 0.0)])], [(3, 0.0, [(3, math.nan)])]):
        with pytest.raises(RunError, match="not numbers"):
            _answer(broken)
    with pytest.raises(RunError, match="not numbers"):
        _answer([row], [math.nan])


def test_files(tmp_path):
    answers = _answer([(3, -1.0, [(3, -1.0)])], [0.5], paragraph="Köln ist")
    write_answers(answers, tmp_path / "new")
    paths = (tmp_path / "new").iterdir()
    files = {path.name: json.loads(path.read_text("utf-8")) for path in paths}
    assert files == {
        "predictions.json": {"a": "Köln"},
        "nbest_predictions.json": answers.nbest,
        "null_odds.json": {"a": 0.5},
    }


def test_null_odds_above_the_threshold_give_an_empty_answer():
    answers = SquadAnswers({"a": "x", "b": "y"}, {}, {"a": 1.0, "b": 1.5})
    assert answers.apply_null_threshold(1.0) == {"a": "x", "b": ""}
    assert answers.predictions == {"a": "x", "b": "y"}


def _member(odds, *entries):
    nbest = [{"text": text, "probability": share} for text, share in entries]
    return SquadAnswers({"a": entries[0][0]}, {"a": nbest}, {"a": odds})


def test_an_ensemble_takes_the_mean():
    members = [
        _member(1.0, ("x", 0.6), ("y", 0.4)),
        _member(2.0, ("y", 0.5), ("z", 0.5)),
        _member(6.0, ("", 1.0)),
    ]
    combined = combine_answers(members, n_best_size=2)
    assert combined.predictions == {"a": "y"}
    assert combined.null_odds == {"a": 3.0}
    assert [entry["text"] for entry in combined.nbest["a"]] == ["y", "x"]
    shares = [entry["probability"] for entry in combined.nbest["a"]]
    assert shares == pytest.approx([0.3, 0.2])
    assert combine_answers([_member(1.0, ("", 1.0))]).predictions == {"a": ""}
    with pytest.raises(ValueError, match="same questions"):
        combine_answers([members[0], SquadAnswers({"b": ""}, {"b": []}, {"b": 0.0})])
    with pytest.raises(ValueError, match="same questions"):
        combine_answers([])
