"""The official SQuAD metrics: hand-made cases, a second implementation, every threshold tried."""

import math

import numpy as np
import pytest

import squad_reference
from funnel.tasks.squad_metrics import evaluate_v1, evaluate_v2, normalize_answer
from funnel.utils.errors import DataError
from squad_cases import graded, squad_data

NORMALIZED = [
    ("The  Cat", "cat"),
    ("a an the", ""),
    ("Another theme", "another theme"),  # articles are whole words
    ("the-cat", "thecat"),  # punctuation goes first, so no article is left
    ("U.S.A.", "usa"),
    ("«Köln»", "«köln»"),  # ASCII punctuation only
    ("1,000\t000", "1000 000"),
    ("A's", "as"),
    ("", ""),
]


@pytest.mark.parametrize("text, expected", NORMALIZED)
def test_normalization(text, expected):
    assert normalize_answer(text) == expected
    assert " ".join(squad_reference.normalized_words(text)) == expected


def test_v1_takes_the_best_gold_answer():
    data = graded(["Paris", "the city of Paris"], ["ten"], ["a"])
    predictions = {"q0": "city of paris!", "q1": "ten or eleven", "q2": "b"}
    metrics = evaluate_v1(data, predictions)
    assert list(metrics) == ["f1", "exact_match"]
    assert metrics["exact_match"] == pytest.approx(100 / 3)
    assert metrics["f1"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)


def test_v1_counts_missing_and_finds_nothing_in_common_of_two_empty_answers(caplog):
    metrics = evaluate_v1(graded(["the"], ["x"], ["y"]), {"q0": "a", "q1": "x"})
    # "the" and "a" are both nothing: equal, but without a common word.
    assert metrics == {"exact_match": pytest.approx(200 / 3), "f1": pytest.approx(100 / 3)}
    assert "1 of 3 questions have no prediction" in caplog.text
    assert evaluate_v1(graded(["x"]), {}) == {"f1": 0.0, "exact_match": 0.0}
    with pytest.raises(DataError, match="has no answer, which SQuAD 1.1 cannot score"):
        evaluate_v1(graded(["x"], []), {"q0": "x", "q1": ""})


def test_words_are_counted_as_often_as_they_occur():
    f1 = evaluate_v1(graded(["x x y"]), {"q0": "x y y"})["f1"]
    assert f1 == pytest.approx(100 * 2 / 3)


GOLDS = [["Paris", "city of Paris"], ["ten men"], [], []]
PREDICTIONS = {"q0": "Paris", "q1": "ten", "q2": "some", "q3": "thing"}
ODDS = {"q0": -2.0, "q1": 1.0, "q2": 0.5, "q3": 3.0}


def test_v2_by_hand():
    metrics = evaluate_v2(graded(*GOLDS), PREDICTIONS, ODDS)
    # In the order of their odds: q0 wins 1, q2 loses 1, q1 wins 2/3 in F1 and nothing in exact.
    assert metrics["best_f1"] == pytest.approx(75.0)
    assert metrics["best_f1_thresh"] == -2.0
    assert metrics["best_exact"] == pytest.approx(75.0)
    assert metrics["best_exact_thresh"] == -2.0
    assert metrics["has_ans_exact"] == pytest.approx(0.5)
    assert metrics["has_ans_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["threshold"] == -2.0
    assert (metrics["exact"], metrics["f1"], metrics["total"]) == (75.0, 75.0, 4)
    assert (metrics["HasAns_exact"], metrics["HasAns_f1"], metrics["HasAns_total"]) == (50, 50, 2)
    assert (metrics["NoAns_exact"], metrics["NoAns_f1"], metrics["NoAns_total"]) == (100, 100, 2)


def test_v2_at_a_given_threshold():
    metrics = evaluate_v2(graded(*GOLDS), PREDICTIONS, ODDS, threshold=1.0)
    assert metrics["threshold"] == 1.0
    assert metrics["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)  # odds of 1.0 do not exceed
    assert metrics["NoAns_f1"] == pytest.approx(50.0)
    assert metrics["best_f1"] == pytest.approx(75.0)


def test_silence_everywhere_can_be_best():
    golds, wrong = [["x"], []], {"q0": "y", "q1": "z"}
    metrics = evaluate_v2(graded(*golds), wrong, {"q0": 0.1, "q1": 0.9})
    assert (metrics["best_f1"], metrics["best_f1_thresh"], metrics["f1"]) == (50.0, 0.0, 50.0)
    # The official program says 0 here too, but these odds are no probabilities: 0 silences nobody.
    metrics = evaluate_v2(graded(*golds), wrong, {"q0": -5.0, "q1": -4.0})
    assert metrics["best_f1_thresh"] < -5.0
    assert metrics["f1"] == metrics["best_f1"] == 50.0


def test_questions_of_equal_odds_speak_together():
    golds, said = [["x"], [], []], {"q0": "x", "q1": "y", "q2": "z"}
    metrics = evaluate_v2(graded(*golds), said, dict.fromkeys(said, 0.5))
    # Hearing q0 alone would give 100, but no threshold does that.
    assert metrics["best_exact"] == pytest.approx(200 / 3)
    assert metrics["exact"] == pytest.approx(200 / 3)


def test_only_one_kind_of_question():
    metrics = evaluate_v2(graded(["x"]), {"q0": "x"}, {"q0": 0.0})
    assert "NoAns_f1" not in metrics
    assert metrics["HasAns_total"] == metrics["total"] == 1
    metrics = evaluate_v2(graded([]), {"q0": ""}, {"q0": 0.0})
    assert not {"HasAns_f1", "has_ans_f1", "has_ans_exact"} & metrics.keys()
    assert metrics["best_exact"] == metrics["NoAns_f1"] == 100.0


def test_empty_predictions_and_golds_that_are_mere_articles():
    data = graded(["the"], ["the", "x"], ["x"])
    odds = {"q0": 0.0, "q1": 0.0, "q2": 0.0}
    metrics = evaluate_v2(data, {"q0": "a", "q1": "", "q2": ""}, odds, threshold=1.0)
    assert metrics["exact"] == metrics["f1"] == pytest.approx(100 / 3)


def test_missing_predictions_odds_and_answers(caplog):
    data = graded(["x"], [])
    assert evaluate_v2(data, {"q0": "x"}, {"q0": 0.0})["total"] == 1
    assert "1 of 2 questions have no prediction" in caplog.text
    with pytest.raises(DataError, match="no null odds for question 'q1'"):
        evaluate_v2(data, {"q0": "x", "q1": ""}, {"q0": 0.0})
    with pytest.raises(DataError, match="no prediction for any"):
        evaluate_v2(data, {"other": "x"}, {})
    with pytest.raises(DataError, match="answers is missing, needed to score"):
        evaluate_v2(squad_data(("c", ("a", "?", None))), {"a": "x"}, {"a": 0.0})


WORDS = ["the", "a", "x", "y.", "Z", "z", "", "x-y"]


@pytest.mark.parametrize("seed", range(8))
def test_random_cases_beside_a_second_implementation(seed):
    random = np.random.default_rng(seed)

    def phrase():
        return " ".join(random.choice(WORDS, random.integers(0, 4))).strip()

    golds = [[phrase() or "x" for _ in range(random.integers(0, 4))] for _ in range(40)]
    data = graded(*golds)
    predictions = {question.id: phrase() for question in data.questions}
    decimals = int(random.integers(0, 3))  # few decimals: many equal odds
    odds = {q.id: round(float(random.normal()), decimals) for q in data.questions}
    metrics = evaluate_v2(data, predictions, odds)

    tried = [-math.inf, *odds.values()]
    all_scores = [squad_reference.scores_v2(data, predictions, odds, value) for value in tried]
    for key in ("exact", "f1"):
        best = max(scores[key] for scores in all_scores)
        assert metrics[f"best_{key}"] == pytest.approx(best)
        threshold = metrics[f"best_{key}_thresh"]
        reached = squad_reference.scores_v2(data, predictions, odds, threshold)[key]
        assert reached == pytest.approx(best)
    for threshold in (None, 0.3):
        found = evaluate_v2(data, predictions, odds, threshold)
        expected = squad_reference.scores_v2(data, predictions, odds, found["threshold"])
        assert {key: found[key] for key in expected} == pytest.approx(expected)

    pairs = [squad_reference.raw_scores(g, predictions[f"q{i}"]) for i, g in enumerate(golds) if g]
    fractions = [metrics["has_ans_exact"], metrics["has_ans_f1"]]
    assert fractions == pytest.approx(np.mean(pairs, axis=0).tolist())

    answerable = graded(*(g or ["x"] for g in golds))
    judged = [
        (
            max(
                squad_reference.exact_match(answer.text, predictions[q.id]) for answer in q.answers
            ),
            max(squad_reference.f1(a.text, predictions[q.id], False) for a in q.answers),
        )
        for q in answerable.questions
    ]
    exact, f1 = 100 * np.mean(judged, axis=0)
    assert evaluate_v1(answerable, predictions) == {
        "exact_match": pytest.approx(exact),
        "f1": pytest.approx(f1),
    }
