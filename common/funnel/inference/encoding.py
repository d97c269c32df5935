"""A part of the inputs, encoded: sequences whose outputs become those of the examples.

An example is one sequence, or several: one per option of a multiple choice, one per window of a
question's context or of the words of a long sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.config.squad import AnswerSettings, WindowConfig
from funnel.config.tagging import TaggingWindows
from funnel.features.classification import Features, encode_examples, pad_batch
from funnel.features.pair_sequences import PairSequences, flatten
from funnel.features.squad import SquadWindows, build_windows
from funnel.features.squad_predictions import BeamOutputs, iter_answers
from funnel.features.squad_scoring import BEAM_FIELDS
from funnel.features.tagging.windows import TaggingFeatures, encode_sentences
from funnel.inference.inputs import Input
from funnel.inference.rows import (
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
    Answer,
)
from funnel.tasks.base import Example
from funnel.tasks.race import insert_option
from funnel.tasks.squad import Question, SquadData
from funnel.tokenization import Tokenizer
from funnel.utils.split_report import TextCounts, count_texts

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class EncodingConfig:
    """How inputs become sequences.

    Attributes:
        tokenizer: that of the model.
        max_length: tokens of a sequence, special tokens included.
        max_query_length: tokens of a question that is to be answered from a context.
        max_qa_length: tokens of a question with an option.
        doc_stride: tokens between the windows of a context.
        overlap: tokens that two windows of a sequence of words share at most.
        answers: choice of answers.
        na_threshold: score of "no answer" above which an answer is empty; None: never.
        text_first: the layout of transformers: the question before the context in question
            answering has the segment of a first text, and in multiple choice the context comes
            first. Else that of this package's models.
    """

    tokenizer: Tokenizer
    max_length: int
    max_query_length: int = 64
    max_qa_length: int = 128
    doc_stride: int = 128
    overlap: int = 32
    answers: AnswerSettings = AnswerSettings()
    na_threshold: float | None = None
    text_first: bool = False

    @property
    def segments(self) -> SegmentIds:
        """The segment ids of the tokenizer."""
        return self.tokenizer.segments


class Encoded(Protocol):
    """n sequences, and what their outputs mean."""

    @property
    def texts(self) -> TextCounts:
        """Counts of the texts."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every sequence, int [n]."""
        ...

    def pad(self, indices: np.ndarray, length: int) -> Arrays:
        """Return the sequences ``indices`` as model inputs, padded to ``length``."""
        ...

    def keep(self, outputs: Arrays, indices: np.ndarray) -> Arrays:
        """Return what is needed of a batch's outputs, in arrays of one shape for all batches."""
        ...

    def finish(self, outputs: Arrays) -> Sequence[Any] | np.ndarray:
        """Return the outputs of the examples for :meth:`RowFormat.rows`, from those kept."""
        ...


@dataclass(frozen=True)
class Texts:
    """Single texts and pairs: an example is a sequence."""

    features: Features
    config: EncodingConfig
    texts: TextCounts

    @classmethod
    def encode(cls, inputs: Sequence[Input], config: EncodingConfig) -> Texts:
        """Encode inputs."""
        examples = [Example(item.text, item.other) for item in inputs]
        features = encode_examples(examples, config.tokenizer, config.max_length, config.segments)
        return cls(features, config, features.texts)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every sequence."""
        return self.features.lengths

    def pad(self, indices: np.ndarray, length: int) -> Arrays:
        """Return model inputs [B, length]."""
        pad_id = self.config.tokenizer.special.pad_id
        return pad_batch(self.features, indices, length, pad_id, self.config.segments.pad)

    def keep(self, outputs: Arrays, indices: np.ndarray) -> Arrays:
        """Return the logits [B, labels]."""
        return {"logits": outputs["logits"]}

    def finish(self, outputs: Arrays) -> Sequence[Any] | np.ndarray:
        """Return the logits [n, labels]."""
        return outputs["logits"]


@dataclass(frozen=True)
class Words:
    """Sequences of words, as ``tagger.py`` reads them: an example is a sequence or some windows.

    Attributes:
        features: the windows, and the word that each of their labels is for.
    """

    features: TaggingFeatures
    config: EncodingConfig
    texts: TextCounts

    @classmethod
    def encode(cls, inputs: Sequence[Input], config: EncodingConfig) -> Words:
        """Encode inputs."""
        overlap = config.overlap
        if overlap != TaggingWindows.overlap:  # that adapts itself to a short length
            overlap = min(overlap, config.max_length - 3)
        windows = TaggingWindows(config.max_length, overlap, config.segments)
        features = encode_sentences([i.words for i in inputs], None, config.tokenizer, windows)
        counts, known = features.counts, features.texts
        texts = TextCounts(
            texts=len(inputs),
            truncated=counts.sentences,
            longest=counts.longest,
            limit=config.max_length,
            # A word without token is read as the unknown one.
            tokens=known.tokens + counts.empty_words,
            unknown=known.unknown + counts.empty_words,
            unit="sentences",
            windows=counts.windows,
        )
        return cls(features, config, texts)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every window."""
        return self.features.lengths

    def pad(self, indices: np.ndarray, length: int) -> Arrays:
        """Return model inputs [B, length]."""
        batch = self.features.pad(indices, length, self.config.tokenizer.special.pad_id)
        del batch["word_positions"]
        return batch

    def keep(self, outputs: Arrays, indices: np.ndarray) -> Arrays:
        """Return the logits of the words, [B, most words of a window, labels]."""
        logits, features = outputs["logits"], self.features
        kept = np.zeros((len(indices), features.width, logits.shape[2]), np.float32)
        for row, index in enumerate(indices.tolist()):
            places = features.positions[features.slots[index] : features.slots[index + 1]]
            kept[row, : len(places)] = logits[row, places]
        return {"logits": kept}

    def finish(self, outputs: Arrays) -> list[np.ndarray]:
        """Return the logits [words, labels] of every example."""
        words = self.features.by_word(outputs["logits"])
        return np.split(words, self.features.sentence_offsets[1:-1])


@dataclass(frozen=True)
class Choices:
    """Options of questions: an example is a sequence per option.

    Attributes:
        counts: number of options of every example.
    """

    sequences: PairSequences
    config: EncodingConfig
    texts: TextCounts
    counts: np.ndarray

    @classmethod
    def encode(cls, inputs: Sequence[Input], config: EncodingConfig) -> Choices:
        """Encode inputs; a question with its option keeps its last tokens."""
        tokenizer, room = config.tokenizer, config.max_length - 3
        pairs = [insert_option(item.text, choice) for item in inputs for choice in item.choices]
        counts = np.array([len(item.choices) for item in inputs], np.int64)
        questions, question_offsets = flatten(tokenizer.encode_batch(pairs))
        contexts, offsets = flatten(tokenizer.encode_batch([item.other or "" for item in inputs]))
        context = np.repeat(np.arange(len(inputs)), counts)
        sizes = np.diff(question_offsets)
        kept = np.minimum(sizes, max(1, min(config.max_qa_length, room - 1)))
        rest = np.minimum(np.diff(offsets)[context], room - kept)
        first = (len(contexts) + question_offsets[1:] - kept, kept)
        second = (offsets[context], rest)
        if config.text_first:
            first, second = second, first
        special, tokens = tokenizer.special, np.concatenate([contexts, questions])
        sequences = PairSequences(
            tokens, *first, *second, special.cls_id, special.sep_id, config.segments
        )
        unknown = int((tokens == special.unk_id).sum())
        totals = (sizes + np.diff(offsets)[context] + 3).tolist()
        texts = count_texts(totals, config.max_length, tokens=len(tokens), unknown=unknown)
        return cls(sequences, config, replace(texts, unit="options"), counts)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every sequence."""
        return self.sequences.lengths

    def pad(self, indices: np.ndarray, length: int) -> Arrays:
        """Return model inputs [B, 1, length]: every option is a question with one."""
        pad_id = self.config.tokenizer.special.pad_id
        batch = self.sequences.pad(indices, length, pad_id)
        return {name: array[:, None] for name, array in batch.items()}

    def keep(self, outputs: Arrays, indices: np.ndarray) -> Arrays:
        """Return the logits [B, 1]."""
        return {"logits": outputs["logits"]}

    def finish(self, outputs: Arrays) -> list[np.ndarray]:
        """Return the logits [options] of every example."""
        return np.split(outputs["logits"][:, 0], np.cumsum(self.counts)[:-1])


@dataclass(frozen=True)
class Contexts:
    """Questions with a context: an example is a sequence per window of the context."""

    data: SquadData
    windows: SquadWindows
    config: EncodingConfig
    texts: TextCounts

    @classmethod
    def encode(cls, inputs: Sequence[Input], config: EncodingConfig) -> Contexts:
        """Encode inputs; a context that several questions share is encoded once."""
        paragraphs: dict[str, int] = {}
        questions = []
        for index, item in enumerate(inputs):
            paragraph = paragraphs.setdefault(item.other or "", len(paragraphs))
            questions.append(Question(str(index), item.text, paragraph, None, str(index)))
        data = SquadData("the input", tuple(paragraphs), tuple(questions))
        segments = config.segments
        if config.text_first:
            segments = replace(segments, a=segments.b, b=segments.a)
        query = min(config.max_query_length, config.max_length - 4)
        lengths = WindowConfig(config.max_length, query, config.doc_stride, segments)
        windows = build_windows(data, config.tokenizer, lengths)
        return cls(data, windows, config, replace(windows.texts, unit="questions"))

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every window."""
        return self.windows.lengths

    def pad(self, indices: np.ndarray, length: int) -> Arrays:
        """Return model inputs [B, length] with ``p_mask``, and ``cls_index`` [B]."""
        return self.windows.pad(indices, length, self.config.tokenizer.special.pad_id)

    def keep(self, outputs: Arrays, indices: np.ndarray) -> Arrays:
        """Return the beams; scores of all positions are not kept."""
        return {name: outputs[name] for name in BEAM_FIELDS}

    def finish(self, outputs: Arrays) -> list[Answer]:
        """Return the best answers of every example."""
        beams = BeamOutputs(*(outputs[name] for name in BEAM_FIELDS))
        answers, threshold = [], self.config.na_threshold
        for found in iter_answers(self.data, self.windows, beams, self.config.answers):
            is_none = threshold is not None and found.null_odds > threshold
            text = "" if is_none else found.nbest[0]["text"]
            answers.append(Answer(found.nbest, found.null_odds, text))
        return answers


_Encoder = Callable[[Sequence[Input], EncodingConfig], Encoded]
_ENCODERS: dict[str, _Encoder] = {
    TOKEN_CLASSIFICATION: Words.encode,
    MULTIPLE_CHOICE: Choices.encode,
    QUESTION_ANSWERING: Contexts.encode,
}


def encode_inputs(inputs: Sequence[Input], problem_type: str, config: EncodingConfig) -> Encoded:
    """Encode inputs for a model of a problem type."""
    encode: _Encoder = _ENCODERS.get(problem_type, Texts.encode)
    return encode(inputs, config)
