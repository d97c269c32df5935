"""Answers to many questions: a bounded memory for each, and files as those of few."""

import json
import tracemalloc

import numpy as np
import pytest

from funnel.features import squad, squad_predictions
from funnel.features.squad import WindowConfig, build_windows
from funnel.features.squad_predictions import AnswerSettings, BeamOutputs, find_answers
from funnel.features.squad_scoring import BEAM_FIELDS, SquadScorer
from funnel.formats.json_spool import JsonSpool, write_json_array, write_json_object
from funnel.tables import json_stream
from funnel.tasks.squad import read_squad
from funnel.utils import scratch, scratch_list
from funnel.utils.files import atomic_write_json
from squad_cases import WordTokenizer, qa, squad_data, squad_file, squad_json

WORDS = " ".join(f"word{index}" for index in range(40))
STARTS, ENDS = 5, 5
SETTINGS = AnswerSettings(n_best_size=20, max_answer_length=50)


def _case(count):
    data = squad_data((WORDS, *((f"question-{index:06}", "q", None) for index in range(count))))
    windows = build_windows(data, WordTokenizer(), WindowConfig(64, 3, 8))
    random = np.random.default_rng(0)
    scores = BeamOutputs(
        np.round(-random.random((len(windows), STARTS)), 2).astype(np.float32),
        random.integers(3, 10, (len(windows), STARTS)),
        np.round(-random.random((len(windows), STARTS * ENDS)), 2).astype(np.float32),
        random.integers(10, 40, (len(windows), STARTS * ENDS)),
        random.standard_normal(len(windows)).astype(np.float32),
    )
    return data, windows, scores


def _traced(count, patch):
    """Return the bytes that the answers hold, and the peak while they are found and written."""
    data, windows, scores = _case(count)
    patch.setattr(scratch, "_HELD_BYTES", 4096)
    patch.setattr(scratch_list, "_HELD_BYTES", 4096)
    patch.setattr(squad_predictions, "_WINDOWS_AT_ONCE", 16)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        answers = find_answers(data, windows, scores, SETTINGS)
        held = tracemalloc.get_traced_memory()[0] - before
        assert len(answers.nbest["question-000007"]) == 20
        return held, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_the_answers_to_a_question_hold_less_than_half_a_kilobyte(monkeypatch):
    _traced(8, monkeypatch)  # imports and caches
    few, many = _traced(50, monkeypatch), _traced(400, monkeypatch)
    held, peak = ((after - before) / 350 for before, after in zip(few, many, strict=True))
    # 20 answers with their scores take 5 kB as Python objects.
    assert held < 500
    assert peak < 500


def _traced_reading(folder, count, patch):
    """Return the bytes that the questions of a file and their windows hold, and the peak."""
    paragraphs = [
        (f"{WORDS} {index}", *(qa(f"question-{index:06}-{i}", "one two " * 5) for i in range(2)))
        for index in range(count // 2)
    ]
    path = squad_file(folder, squad_json(*paragraphs))
    del paragraphs
    patch.setattr(scratch, "_HELD_BYTES", 4096)
    patch.setattr(scratch_list, "_HELD_BYTES", 4096)
    patch.setattr(json_stream, "_READ_CHARACTERS", 4096)
    patch.setattr(squad, "_TEXTS_AT_ONCE", 16)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        data = read_squad(path)
        windows = build_windows(data, WordTokenizer(keeps_texts=False), WindowConfig(64, 12, 8))
        SquadScorer(data, windows, SETTINGS)
        assert len(data.questions) == len(windows) == count
        held = tracemalloc.get_traced_memory()[0] - before
        return held, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_question_that_is_read_holds_a_quarter_kilobyte(tmp_path, monkeypatch):
    _traced_reading(tmp_path, 8, monkeypatch)  # imports and caches
    few, many = (_traced_reading(tmp_path, count, monkeypatch) for count in (100, 900))
    held, peak = ((after - before) / 800 for before, after in zip(few, many, strict=True))
    # 80 bytes of a window; 1.3 kB as Python objects, with half a paragraph of 400 characters.
    assert held < 150
    assert peak < 450


def test_answers_do_not_depend_on_how_many_windows_are_searched_at_once(monkeypatch):
    data, windows, scores = _case(12)
    together = find_answers(data, windows, scores, SETTINGS)
    monkeypatch.setattr(squad_predictions, "_WINDOWS_AT_ONCE", 1)
    apart = find_answers(data, windows, scores, SETTINGS)
    assert list(together.predictions) == [question.id for question in data.questions]
    assert (together.predictions, together.nbest) == (apart.predictions, apart.nbest)
    assert together.null_odds == apart.null_odds


def test_a_spool_reads_what_was_added_also_from_a_file(monkeypatch):
    monkeypatch.setattr(scratch_list, "_HELD_BYTES", 64)
    values = {f"ä{i}": [{"text": "x\ud800\n" * i, "p": i / 7}] for i in range(40)}
    index: dict[str, int] = {}
    spool, other = JsonSpool(index), JsonSpool(index)
    for name, value in values.items():
        spool.add(name, value)
        other.add(name, name)
    assert spool == values
    assert (list(spool), len(spool), other["ä3"]) == (list(values), 40, "ä3")
    with pytest.raises(KeyError):
        spool["nothing"]


def test_half_a_surrogate_pair_in_a_text_is_written_as_an_escape(tmp_path):
    value = {"id": "a \ud800 b", "ü": ["\udfff"]}
    atomic_write_json(tmp_path / "at once", value)
    write_json_object(tmp_path / "by members", value)
    for path in tmp_path.iterdir():
        assert json.loads(path.read_text("utf-8")) == value


@pytest.mark.parametrize("value", [{}, {"a": 1.5}, {"ä": [{"b": [float("nan"), "x\ny"]}], "c": {}}])
def test_files_written_by_members_have_the_same_bytes(tmp_path, value):
    atomic_write_json(tmp_path / "at once", value)
    write_json_object(tmp_path / "by members", value)
    assert (tmp_path / "by members").read_bytes() == (tmp_path / "at once").read_bytes()
    atomic_write_json(tmp_path / "at once", list(value))
    write_json_array(tmp_path / "by members", iter(value))
    assert (tmp_path / "by members").read_bytes() == (tmp_path / "at once").read_bytes()


def test_logits_are_those_of_every_window(tmp_path):
    data, windows, scores = _case(3)
    outputs = dict(zip(BEAM_FIELDS, scores, strict=True))
    SquadScorer(data, windows, SETTINGS).write_logits(outputs, tmp_path)
    rows = json.loads((tmp_path / "logits.json").read_text())
    assert [row.pop("unique_id") for row in rows] == windows.unique_ids.tolist()
    assert rows == [
        {name: values[index].tolist() for name, values in outputs.items()}
        for index in range(len(windows))
    ]
