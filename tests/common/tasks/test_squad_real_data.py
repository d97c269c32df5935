"""SQuAD on real questions: counts, and every gold answer comes back from its tokens."""

import time

import numpy as np
import pytest

from funnel import get_tokenizer
from funnel.features.squad import WindowConfig, build_windows
from funnel.features.squad_predictions import AnswerSettings, BeamOutputs, find_answers
from funnel.tasks.squad import SquadData, read_squad
from funnel.tasks.squad_metrics import evaluate_v1, evaluate_v2, normalize_answer
from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary
from task_files import DATA, needs_real_data

pytestmark = needs_real_data

COUNTS = {
    "dev-v2.0": (1204, 11873, 5945),
    "train-v2.0-from-dev": (727, 7392, 3704),
    "dev-v2.0-rest": (477, 4481, 2241),
    "train-answerable": (1445, 6039, 0),
}


@pytest.fixture(scope="module")
def dev():
    return read_squad(DATA / "squad" / "dev-v2.0.json")


@pytest.fixture(scope="module")
def sample(dev):
    """Every twelfth question: all articles, about 500 answerable ones."""
    return SquadData(dev.path, dev.paragraphs, dev.questions[::12])


@pytest.fixture(scope="module", params=["word_piece", "sent_piece"])
def tokenizer(request, dev, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / request.param
    lines = [line for paragraph in dev.paragraphs for line in paragraph.splitlines()]
    build_vocabulary(lines, path, VocabularyConfig(request.param, 6000))
    return get_tokenizer(request.param, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_files(name, caplog):
    data = read_squad(DATA / "squad" / f"{name}.json")
    unanswerable = sum(question.answers == () for question in data.questions)
    assert (len(data.paragraphs), len(data.questions), unanswerable) == COUNTS[name]
    assert not caplog.records, "every answer is at its answer_start"
    if unanswerable:
        as_v1 = read_squad(DATA / "squad" / f"{name}.json", "v1")
        assert len(as_v1.questions) == len(data.questions) - unanswerable


@pytest.mark.slow
def test_gold_answers_come_back_from_their_tokens(sample, tokenizer):
    windows = build_windows(sample, tokenizer)
    pairs = []
    for question in sample.questions:
        text = sample.paragraphs[question.paragraph]
        for answer in question.answers:
            end = answer.start + len(answer.text)
            span = windows.paragraphs.find_overlapping(question.paragraph, answer.start, end)
            place = windows.paragraphs.characters(question.paragraph, *span)
            pairs.append((text[slice(*place)], answer.text))
    assert len(pairs) > 1500
    assert all(gold in found for found, gold in pairs)
    exact = np.mean([found == gold for found, gold in pairs])
    pairs = [(normalize_answer(found), normalize_answer(gold)) for found, gold in pairs]
    as_scored = np.mean([found == gold for found, gold in pairs])
    # SentencePiece has pieces such as "(19" and ")." that hold more than an answer does.
    assert exact >= {"word_piece": 0.995, "sent_piece": 0.98}[tokenizer.kind]
    assert as_scored >= 0.995


def _all_knowing(windows):
    """The beams of a model that is sure of the first gold answer wherever a window has it."""
    start, end = windows.start_positions[:, None], windows.end_positions[:, None]
    is_silent = start[:, 0] == 0
    score = np.where(is_silent, -20.0, -0.01)[:, None]
    return BeamOutputs(score, start, score, end, np.where(is_silent, 5.0, -5.0))


@pytest.mark.slow
def test_gold_answers_as_predictions_score_nearly_everything(sample, tokenizer):
    config = WindowConfig(max_seq_length=128, max_query_length=32, doc_stride=32)
    windows = build_windows(sample, tokenizer, config, training=True, seed=3)
    assert len(windows) > 1.5 * len(sample.questions)
    settings = AnswerSettings(conditional_end=False)
    answers = find_answers(sample, windows, _all_knowing(windows), settings)
    metrics = evaluate_v2(sample, answers.predictions, answers.null_odds)
    assert metrics["best_exact"] > 98.5  # what is lost: answers that begin or end inside a token
    assert metrics["best_f1"] > 99
    assert metrics["NoAns_exact"] == 100.0
    answerable = SquadData(
        sample.path, sample.paragraphs, tuple(q for q in sample.questions if q.answers)
    )
    assert evaluate_v1(answerable, answers.predictions)["f1"] > 98


def test_preprocessing_is_fast(dev, tokenizer):
    """Thousands of questions a second were measured; the bar allows for a slow, busy machine."""
    part = SquadData(dev.path, dev.paragraphs, dev.questions[:2000])
    begin = time.process_time()
    build_windows(part, tokenizer)
    assert len(part.questions) / (time.process_time() - begin) > 400
