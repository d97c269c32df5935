"""RACE questions as four sequences each, ``[CLS] question with option [SEP] article [SEP]``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from funnel.config.inputs import RaceConfig
from funnel.features.pair_sequences import PairSequences, flatten
from funnel.tasks.labels import count_labels
from funnel.tasks.race import LETTERS, OPTIONS, RaceData, insert_option
from funnel.utils.split_report import NO_TEXTS, SplitReport, TextCounts

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer


@dataclass(frozen=True)
class RaceFeatures:
    """n encoded questions.

    Attributes:
        sequences: 4n sequences; the options of a question are consecutive.
        labels: int64 [n], the correct option, 0 to 3.
        is_high: bool [n], from a high school examination.
        texts: counts of the sequences.
    """

    sequences: PairSequences
    labels: np.ndarray
    is_high: np.ndarray
    texts: TextCounts = NO_TEXTS

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of the longest option's sequence of each question, int64 [n]."""
        return self.sequences.lengths.reshape(-1, OPTIONS).max(axis=1)

    def report(self) -> SplitReport:
        """Return counts of questions, answers and texts."""
        answers = count_labels(LETTERS, Counter(self.labels.tolist()))
        return SplitReport(len(self), "questions", labels=answers, texts=self.texts)

    def pad(
        self, indices: Sequence[int] | np.ndarray, length: int, pad_id: int
    ) -> dict[str, np.ndarray]:
        """Return the questions ``indices`` (B of them) padded on the right to ``length`` = L.

        Returns:
            ``input_ids``, ``attention_mask`` (1 = real token), ``token_type_ids``, int64 [B, 4, L],
            and ``labels``, int64 [B].

        Raises:
            ValueError: a sequence is longer than ``length``.
        """
        indices = np.asarray(indices, np.int64)
        rows = (indices[:, None] * OPTIONS + np.arange(OPTIONS)).reshape(-1)
        batch = {
            name: array.reshape(len(indices), OPTIONS, length)
            for name, array in self.sequences.pad(rows, length, pad_id).items()
        }
        return batch | {"labels": self.labels[indices]}


def encode_race(
    data: RaceData, tokenizer: Tokenizer, config: RaceConfig = RaceConfig()
) -> RaceFeatures:
    """Encode every question; an article is tokenized once for all of its questions.

    A question with its option keeps its last tokens, because the option is mostly at the end. The
    article keeps as many of its first tokens as then fit.
    """
    texts = [insert_option(q.text, option) for q in data.questions for option in q.options]
    questions, question_begins = flatten(tokenizer.encode_batch(texts))
    articles, article_begins = flatten(tokenizer.encode_batch(data.articles))
    article = np.repeat([question.article for question in data.questions], OPTIONS)
    kept = np.minimum(np.diff(question_begins), config.max_qa_length)
    sequences = PairSequences(
        tokens=np.concatenate([articles, questions]),
        first_begins=len(articles) + question_begins[1:] - kept,
        first_lengths=kept,
        second_begins=article_begins[article],
        second_lengths=np.minimum(
            np.diff(article_begins)[article], config.max_seq_length - 3 - kept
        ),
        cls_id=tokenizer.special.cls_id,
        sep_id=tokenizer.special.sep_id,
        segments=config.segments,
    )
    sizes = np.diff(question_begins) + np.diff(article_begins)[article] + 3
    is_cut = (sizes > config.max_seq_length) | (np.diff(question_begins) > kept)
    counts = TextCounts(
        texts=len(sizes),
        truncated=int(is_cut.sum()),
        longest=int(sizes.max(initial=0)),
        limit=config.max_seq_length,
        tokens=len(sequences.tokens),
        unknown=int((sequences.tokens == tokenizer.special.unk_id).sum()),
    )
    labels = np.array([question.label for question in data.questions], np.int64)
    is_high = np.array([question.is_high for question in data.questions], bool)
    return RaceFeatures(sequences, labels, is_high, counts)
