"""Small SQuAD files and a tokenizer of words for tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

from funnel.features.squad_predictions import BeamOutputs
from funnel.tasks.squad import Answer, Question, SquadData

CLS, SEP, PAD = 1, 2, 0


class WordTokenizer:
    """One token per word between blanks; ids count distinct words from 10."""

    def __init__(self, keeps_texts=True):
        self._keeps_texts = keeps_texts
        self.special = SimpleNamespace(cls_id=CLS, sep_id=SEP, pad_id=PAD, unk_id=-1)
        self.encoded = []
        self._ids = {}

    def encode_with_offsets(self, text):
        if self._keeps_texts:
            self.encoded.append(text)
        words = list(re.finditer(r"\S+", text))
        ids = [self._ids.setdefault(word.group(), 10 + len(self._ids)) for word in words]
        return ids, [word.span() for word in words]

    def encode_batch(self, texts):
        return [self.encode_with_offsets(text)[0] for text in texts]


def qa(name, question, *answers, **more):
    """Return a question as in a file; an answer is (text, start)."""
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": question, "answers": listed, **more}


def squad_json(*paragraphs):
    """Return the content of a file; a paragraph is (context, qa, qa, ...)."""
    listed = [{"context": context, "qas": list(qas)} for context, *qas in paragraphs]
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": listed}]}


def squad_file(directory: Path, content) -> Path:
    path = directory / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def squad_data(*paragraphs) -> SquadData:
    """Build data; a paragraph is (context, (id, question, answer texts or None), ...)."""
    questions = []
    for index, (context, *asked) in enumerate(paragraphs):
        for name, text, golds in asked:
            answers = None
            if golds is not None:
                starts = [context.index(gold) if gold in context else None for gold in golds]
                answers = tuple(map(Answer, golds, starts))
            questions.append(Question(name, text, index, answers, f"data[0].paragraphs[{index}]"))
    return SquadData("made.json", tuple(context for context, *_ in paragraphs), tuple(questions))


def graded(*golds) -> SquadData:
    """Build data for metrics: question ``q0`` has the gold answers ``golds[0]`` and so on."""
    asked = [(f"q{index}", "?", list(texts)) for index, texts in enumerate(golds)]
    return squad_data(("context", *asked))


def beams(rows, cls_logits=None) -> BeamOutputs:
    """Build beams of one start each; a row is (start, start score, [(end, end score), ...])."""
    import numpy as np

    return BeamOutputs(
        start_log_probs=np.array([[row[1]] for row in rows], np.float32),
        start_index=np.array([[row[0]] for row in rows]),
        end_log_probs=np.array([[score for _, score in row[2]] for row in rows], np.float32),
        end_index=np.array([[end for end, _ in row[2]] for row in rows]),
        cls_logits=np.array(cls_logits or [0.0] * len(rows), np.float32),
    )
