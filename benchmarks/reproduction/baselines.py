"""Scores of guessing on the tasks of ``benchmarks/reproduce.py``, which a model must exceed."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from funnel.tasks import get_task
from funnel.tasks.race import OPTIONS
from funnel.tasks.squad import SquadData, read_squad
from funnel.tasks.squad_metrics import evaluate_v1
from reproduction.tasks import RACE, SQUAD, Task


def guess(task: Task, folder: Path) -> float:
    """Return the main metric of guessing without a look at the text, as a fraction.

    The most common label of the training data for accuracy, one of the options at random for RACE,
    a random span for SQuAD. A correlation with a constant is 0.

    Args:
        task: the task.
        folder: its data, as :func:`reproduction.data.write_task` writes them.
    """
    if task.program == RACE:
        return 1 / OPTIONS
    if task.program == SQUAD:
        return guess_spans(read_squad(folder / "train.json"), read_squad(folder / "dev.json"))
    if get_task(task.name).metrics[0] != "accuracy":
        return 0.0
    most_common = Counter(load_labels(folder / "train.jsonl")).most_common(1)[0][0]
    labels = load_labels(folder / "dev.jsonl")
    return labels.count(most_common) / len(labels)


def guess_spans(train: SquadData, dev: SquadData) -> float:
    """Return the F1 of random spans as long, in words, as random answers of the training data."""
    draw = random.Random(1)
    lengths = [len(q.answers[0].text.split()) for q in train.questions if q.answers]
    guesses = {}
    for question in dev.questions:
        words = dev.paragraphs[question.paragraph].split()
        length = min(draw.choice(lengths), len(words))
        start = draw.randint(0, len(words) - length)
        guesses[question.id] = " ".join(words[start : start + length])
    return evaluate_v1(dev, guesses)["f1"] / 100


def load_labels(path: Path) -> list[str]:
    """Return the labels of a ``.jsonl`` file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line)["label"] for line in stream]
