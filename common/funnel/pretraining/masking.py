"""Target sampling for pretraining: which tokens of a record are masked, drawn anew every epoch.

Masking as in BERT (Devlin et al. 2019, section 3.1) and, for spans, XLNet (Yang et al. 2019,
section 3.1). A :class:`Masker` turns a batch of whole records into model input and targets:

    masker = Masker(MaskingConfig(seq_len=512, num_predict=85), tokenizer.special, vocab_size)
    generators = [record_generator(seed, epoch, index) for index in indices]
    batch = masker.mask(inputs, seg_ids, boundaries, generators)

The masks of a record depend on its generator alone, not on the batch it comes in, so any number of
workers and any resumption point give the same ones.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from funnel.config.model import ModelConfig
from funnel.config.pretraining import SAMPLE_STRATEGIES, TargetSettings
from funnel.pretraining.spans import place_spans, select_spans, span_lengths, word_edges
from funnel.tokenization.special_tokens import SpecialIds
from funnel.utils.errors import ConfigError, DataError

TOKENS_PER_WORD = 1.2  # the ratio by which word spans stand closer than token spans
_STREAM = int.from_bytes(b"masking", "big")  # tells our streams from others of the same seed


@dataclass(frozen=True)
class MaskingConfig:
    """How targets are chosen and what becomes of them.

    The fields bear the names of the flags; ``truncate_stride`` alone follows from the model.

    Attributes:
        seq_len: T, tokens of a record.
        num_predict: P, targets of a record (fewer only if it has fewer tokens).
        sample_strategy: ``single_token`` (uniform), ``whole_word``, ``token_span`` (of ``min_tok``
            to ``max_tok`` tokens) or ``word_span`` (of ``min_word`` to ``max_word`` words).
        leak_ratio: share of targets that stay as they are in the input.
        rand_ratio: share of targets that become a random token; all others become the mask.
        truncate_stride: what :func:`truncation_stride` says; 0 leaves records whole.
    """

    seq_len: int
    num_predict: int
    sample_strategy: str = TargetSettings.sample_strategy
    leak_ratio: float = TargetSettings.leak_ratio
    rand_ratio: float = TargetSettings.rand_ratio
    min_tok: int = TargetSettings.min_tok
    max_tok: int = TargetSettings.max_tok
    min_word: int = TargetSettings.min_word
    max_word: int = TargetSettings.max_word
    truncate_stride: int = 0

    def __post_init__(self) -> None:
        if self.sample_strategy not in SAMPLE_STRATEGIES:
            choices = ", ".join(SAMPLE_STRATEGIES)
            raise ConfigError(f"sample_strategy: {self.sample_strategy!r} is none of {choices}")
        # A flag that was not set is None.
        if not (self.num_predict and 1 <= self.num_predict < self.seq_len - 3):
            raise ConfigError(
                f"num_predict: {self.num_predict} should be at least 1 and less than seq_len - 3 "
                f"= {self.seq_len - 3}"
            )
        for key in ("leak_ratio", "rand_ratio"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"{key}: {getattr(self, key)} should be from 0 to 1")
        if self.leak_ratio + self.rand_ratio > 1:
            total = f"{self.leak_ratio} and rand_ratio {self.rand_ratio}"
            raise ConfigError(f"leak_ratio: {total} together should be at most 1")
        for unit in ("tok", "word"):
            shortest, longest = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if not 1 <= shortest <= longest:
                most = f"max_{unit} {longest}"
                raise ConfigError(f"min_{unit}: {shortest} should be from 1 to {most}")
        if not 0 <= self.truncate_stride < self.seq_len - 1:
            raise ConfigError(
                f"truncate_seq: stride {self.truncate_stride} leaves nothing of seq_len "
                f"{self.seq_len}; use longer records or fewer blocks"
            )

    @property
    def by_words(self) -> bool:
        """Whether the strategy needs the records' word boundaries."""
        return self.sample_strategy in ("whole_word", "word_span")


class MaskedBatch(NamedTuple):
    """B records of T tokens with P target slots each, ready for a model.

    Attributes:
        masked_input: int64 [B, T], what the (generator) model reads.
        origin_input: int64 [B, T], the same without any masking.
        seg_id: int64 [B, T], as in the record.
        is_target: bool [B, T].
        target: int64 [B, P], original ids of the targets in the order of their positions; empty
            slots come last and hold 0.
        target_mask: bool [B, P], True for a target, False for an empty slot.
        target_positions: int64 [B, P], where the targets are; 0 in empty slots.
        input_mask: bool [B, T], True where ``masked_input`` is the mask symbol or padding.
        pad_mask: bool [B, T], True for padding.
    """

    masked_input: np.ndarray
    origin_input: np.ndarray
    seg_id: np.ndarray
    is_target: np.ndarray
    target: np.ndarray
    target_mask: np.ndarray
    target_positions: np.ndarray
    input_mask: np.ndarray
    pad_mask: np.ndarray


class MaskingRandoms(NamedTuple):
    """All chance in the masking of B records: uniform numbers in [0, 1), float64.

    Attributes:
        token: [B, T], the tokens with the smallest ones are chosen first.
        order: [B, T], words or spans are walked in rising order of it.
        length: [B, P], picks the length of each span.
        left: [B, P], picks where in its slot each span begins.
        treatment: [B, P], whether a target leaks, becomes random or is masked.
        random_id: [B, P], picks the random token.
    """

    token: np.ndarray
    order: np.ndarray
    length: np.ndarray
    left: np.ndarray
    treatment: np.ndarray
    random_id: np.ndarray


def record_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the source of chance for one record in one epoch, the same wherever it is asked for.

    ``index`` counts records over the whole data set. The three numbers address the counter of
    Philox (Salmon et al. 2011) directly, so the streams of different records never overlap.

    Raises:
        ConfigError: one of them is negative or does not fit 64 bits.
    """
    # Plain integers: numpy's own would overflow when shifted.
    seed, epoch, index = operator.index(seed), operator.index(epoch), operator.index(index)
    for key, value in (("seed", seed), ("epoch", epoch), ("record index", index)):
        if not 0 <= value < 1 << 64:
            raise ConfigError(f"{key}: {value} should be from 0 to 2^64 - 1")
    counter = (epoch << 192) | (index << 128)
    return np.random.Generator(np.random.Philox(key=(_STREAM << 64) | seed, counter=counter))


def truncation_stride(model: ModelConfig) -> int:
    """Tokens to give up at the end of a record for this model, 0 for none.

    Pooling with ``truncate_seq`` drops the last position of every block's input; records end in
    padding there, so that no target is dropped. Without a separate [CLS] nothing is dropped.
    """
    return model.upsample_factor if model.truncate_seq and model.separate_cls else 0


def target_mapping(positions: np.ndarray, mask: np.ndarray, length: int) -> np.ndarray:
    """One-hot rows that pick the targets out of a sequence: float32 [B, P, T].

    Args:
        positions: ``target_positions``, integers [B, P].
        mask: ``target_mask`` [B, P]; the rows of empty slots are all zero.
        length: T.
    """
    return ((positions[..., None] == np.arange(length)) & mask[..., None]).astype(np.float32)


def sample_randoms(
    config: MaskingConfig, generators: Sequence[np.random.Generator]
) -> MaskingRandoms:
    """Draw what the masking of ``len(generators)`` records needs, one row from each of them."""
    sizes = (config.seq_len,) * 2 + (config.num_predict,) * 4
    numbers = np.empty((len(generators), sum(sizes)))
    for row, generator in zip(numbers, generators, strict=True):
        generator.random(out=row)
    return MaskingRandoms(*np.split(numbers, np.cumsum(sizes)[:-1], axis=1))


class Masker:
    """Masks batches of records of one data set; it keeps no state and can be pickled.

    Special symbols are never targets, except unk, which stands for text.

    Attributes:
        config: how targets are chosen.
        special: ids of the special symbols.
        is_text: bool [vocab_size], the ids that may be targets.
        random_ids: int64 [n], the ids that a random token is drawn from.
    """

    def __init__(self, config: MaskingConfig, special: SpecialIds, vocab_size: int) -> None:
        reserved = np.array(sorted({*special.functional, special.unk_id}))
        if reserved[0] < 0 or reserved[-1] >= vocab_size:
            raise ConfigError(f"vocab_size: {vocab_size} leaves out special id {reserved[-1]}")
        self.config = config
        self.special = special
        self.is_text = np.ones(vocab_size, bool)
        self.is_text[list(special.functional)] = False
        self.random_ids = np.setdiff1d(np.arange(vocab_size), reserved)
        if not len(self.random_ids):
            raise ConfigError(f"vocab_size: {vocab_size} holds nothing but special symbols")

    def mask(
        self,
        inputs: np.ndarray,
        seg_id: np.ndarray,
        boundaries: Sequence[np.ndarray] | None,
        generators: Sequence[np.random.Generator],
    ) -> MaskedBatch:
        """Choose targets in B records and hide them.

        Args:
            inputs: token ids of the records, integers [B, T].
            seg_id: their segment ids, integers [B, T].
            boundaries: of each record, where its words begin (rising) and then T, as
                :mod:`funnel.pretraining.create_records` writes them; only the word strategies look
                at them.
            generators: one for each record, see :func:`record_generator`.

        Raises:
            DataError: records of another length than ``seq_len``, ids outside the vocabulary, or
                boundaries that are none.
        """
        return self.apply(inputs, seg_id, boundaries, sample_randoms(self.config, generators))

    def apply(
        self,
        inputs: np.ndarray,
        seg_id: np.ndarray,
        boundaries: Sequence[np.ndarray] | None,
        draws: MaskingRandoms,
    ) -> MaskedBatch:
        """Do what :meth:`mask` does with the numbers that were drawn for it."""
        origin = self._checked(inputs)
        if self.config.by_words:
            boundaries = _checked_boundaries(boundaries, origin)
        is_text, usable = self._candidates(origin)
        picked = self._picked(is_text, usable, boundaries, draws)
        positions, target_mask = _exactly(self.config.num_predict, is_text, picked, draws.token)
        target = np.where(target_mask, np.take_along_axis(origin, positions, 1), 0)
        origin = self._truncated(origin)

        rows, slots = np.nonzero(target_mask)
        places = rows, positions[rows, slots]
        masked = origin.copy()
        masked[places] = self._replacements(target, draws)[rows, slots]
        is_target = np.zeros(origin.shape, bool)
        is_target[places] = True
        pad_mask = origin == self.special.pad_id
        return MaskedBatch(
            masked_input=masked,
            origin_input=origin,
            seg_id=np.asarray(seg_id, np.int64),
            is_target=is_target,
            target=target,
            target_mask=target_mask,
            target_positions=positions,
            input_mask=pad_mask | (masked == self.special.mask_id),
            pad_mask=pad_mask,
        )

    def _checked(self, inputs: np.ndarray) -> np.ndarray:
        ids = np.asarray(inputs, np.int64)
        if ids.ndim != 2 or ids.shape[1] != self.config.seq_len:
            shape = list(ids.shape)
            raise DataError(f"records {shape} do not have seq_len {self.config.seq_len} tokens")
        size = len(self.is_text)
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            raise DataError(
                f"records hold ids from {ids.min()} to {ids.max()}, the vocabulary only 0 to "
                f"{size - 1}; use the one the records were made with"
            )
        return ids

    def _candidates(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where targets may be, bool [B, T], and usable length [B]: up to the cut or padding."""
        stop = self.config.seq_len - self.config.truncate_stride
        inside = np.arange(inputs.shape[1]) < stop
        real = (inputs != self.special.pad_id) & inside
        usable = np.where(real.any(1), inputs.shape[1] - real[:, ::-1].argmax(1), 0)
        return self.is_text[inputs] & inside, usable

    def _truncated(self, inputs: np.ndarray) -> np.ndarray:
        """The records as they are fed: a cut one ends in [SEP] and padding."""
        if not self.config.truncate_stride:
            return inputs
        cut = inputs.copy()
        stop = self.config.seq_len - self.config.truncate_stride
        was_over = inputs[:, stop] == self.special.pad_id
        cut[:, stop:] = self.special.pad_id
        cut[~was_over, stop] = self.special.sep_id
        return cut

    def _picked(
        self,
        is_text: np.ndarray,
        usable: np.ndarray,
        boundaries: Sequence[np.ndarray] | None,
        draws: MaskingRandoms,
    ) -> np.ndarray | None:
        """What the strategy picks, bool [B, T], at most P of a record; None: nothing."""
        config = self.config
        if config.sample_strategy == "single_token":
            return None
        if config.sample_strategy == "token_span":
            lengths = span_lengths(draws.length, config.min_tok, config.max_tok)
            begin, end = place_spans(lengths, draws.left, usable / config.num_predict, usable)
            return select_spans(begin, end, draws.order, is_text, config.num_predict)
        edges, num_words = word_edges(boundaries, usable, config.seq_len)
        if config.sample_strategy == "whole_word":
            begin, end = edges[:, :-1], edges[:, 1:]
        else:
            lengths = span_lengths(draws.length, config.min_word, config.max_word)
            per_word = usable / config.num_predict / TOKENS_PER_WORD
            spans = place_spans(lengths, draws.left, per_word, num_words)
            begin, end = (np.take_along_axis(edges, words, 1) for words in spans)
        return select_spans(begin, end, draws.order, is_text, config.num_predict)

    def _replacements(self, target: np.ndarray, draws: MaskingRandoms) -> np.ndarray:
        """What stands in the input in place of each target, int64 [B, P]."""
        leak, rand = self.config.leak_ratio, self.config.rand_ratio
        random_ids = self.random_ids[(draws.random_id * len(self.random_ids)).astype(np.int64)]
        hidden = np.where(draws.treatment < leak + rand, random_ids, self.special.mask_id)
        return np.where(draws.treatment < leak, target, hidden)


def _checked_boundaries(
    boundaries: Sequence[np.ndarray] | None, inputs: np.ndarray
) -> Sequence[np.ndarray]:
    """Raise DataError unless each row rises within 0..T and ends with T."""
    num_records, length = inputs.shape
    if boundaries is None or len(boundaries) != num_records:
        raise DataError(f"{num_records} records come without their word boundaries")
    for row, edges in enumerate(boundaries):
        rising = len(edges) and edges[0] >= 0 and bool((np.diff(edges) > 0).all())
        if not rising or edges[-1] != length:
            raise DataError(
                f"record {row} of the batch: word boundaries should rise and end with its length "
                f"{length}"
            )
    return boundaries


def _exactly(
    count: int, is_text: np.ndarray, picked: np.ndarray | None, token: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [B, P] of ``count`` = P targets in rising order, and which of them are real.

    ``picked`` ones (at most P) come first, then single tokens in rising order of ``token``, a
    random number in [0, 1) for each.
    """
    length = is_text.shape[1]
    rank = np.where(is_text, token, 2.0)
    if picked is not None:
        rank[picked] = -1.0
    chosen = np.argpartition(rank, count - 1, axis=1)[:, :count]
    chosen[np.take_along_axis(rank, chosen, 1) > 1] = length
    chosen.sort(axis=1)
    real = chosen < length
    return np.where(real, chosen, 0), real
