"""The tasks of ``benchmarks/reproduce.py``, cut to what a kind of machine can afford."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from funnel.tasks.race import OPTIONS

CLASSIFIER, SQUAD, RACE = "classifier.py", "squad.py", "race.py"
_WIKIPEDIA, _REVIEWS = "corpus/wiki_articles.txt", "corpus/imdb_reviews.txt.gz"

# Metrics shown after the main one.
_SECOND = {
    "cola": ("accuracy",),
    "sts-b": ("pearson", "spearman"),
    "squad": ("exact_match",),
    "race": ("accuracy_middle", "accuracy_high"),
}


@dataclass(frozen=True)
class Task:
    """A task of fine-tuning, cut to ``train_rows`` labels and ``eval_rows`` rows of evaluation.

    Attributes:
        name: of :func:`funnel.tasks.get_task`; or ``squad`` (1.1) or ``race``.
        folder: in the data directory.
        eval_split: the split that is scored, once, after the last step.
        length: tokens per example.
        corpus: text to pretrain on, in the data directory.
    """

    name: str
    folder: str
    eval_split: str
    length: int
    train_rows: int
    epochs: int
    corpus: str = _WIKIPEDIA
    eval_rows: int = 2000
    batch_size: int = 16

    @property
    def program(self) -> str:
        """The training program; not a field, as the settings of results list the fields."""
        return {"squad": SQUAD, "race": RACE}.get(self.name, CLASSIFIER)

    @property
    def texts(self) -> int:
        """Number of texts that the model reads per example."""
        return OPTIONS if self.program == RACE else 1

    @property
    def second_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that are shown after the main one."""
        return _SECOND.get(self.name, ())


IMDB = Task("imdb", "aclImdb", "test", 512, 1000, 6, corpus=_REVIEWS)
AG_NEWS = Task("ag_news", "text_cls/ag_news", "dev", 64, 1000, 10)
MNLI = Task("mnli", "glue/MNLI", "dev", 64, 9000, 6)
_COLA = Task("cola", "glue/CoLA", "dev", 32, 8551, 10)
_RTE = Task("rte", "glue/RTE", "dev", 256, 2490, 10)
_STS_B = Task("sts-b", "glue/STS-B", "dev", 128, 5749, 10)
# SQuAD 1.1: on 2.0 small models learn to answer nothing, which is right for half of the questions.
_SQUAD = Task("squad", "squad", "dev", 384, 6039, 4)
_RACE = Task("race", "race", "dev", 512, 10_649, 2)

# All labels that the data directory has: for a GPU.
FULL = (AG_NEWS, _COLA, MNLI, _RTE, _STS_B, _SQUAD, _RACE)


def cut(task: Task, length: int, train_rows: int, epochs: int, **more: Any) -> Task:
    """Return a task with fewer tokens and labels; ``more`` are further fields."""
    return dataclasses.replace(task, length=length, train_rows=train_rows, epochs=epochs, **more)


# About a minute of fine-tuning on one core, with six layers of width 128.
SHORT = (
    AG_NEWS,
    cut(_COLA, 32, 4000, 5),
    cut(MNLI, 64, 4000, 3),
    cut(_RTE, 128, 2490, 2),
    cut(_STS_B, 64, 4000, 3),
    cut(_SQUAD, 256, 2000, 1, eval_rows=1000, batch_size=8),
    cut(_RACE, 256, 400, 1, eval_rows=500, batch_size=8),
)
# Two steps, to see that everything runs; a question of SQuAD may have 64 tokens.
TINY = tuple(cut(task, 72, 32, 1, eval_rows=32, corpus="wikitext2/valid.txt") for task in FULL)
