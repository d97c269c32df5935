"""Dynamic masking for pretraining: choose the targets of each record, different in every epoch.

Masking follows BERT (Devlin et al. 2019, section 3.1) and, for spans, XLNet (Yang et al. 2019,
section 3.1). A :class:`Masker` turns a batch of records into model inputs and targets:

    masker = Masker(MaskingConfig(seq_len=512, num_predict=85), tokenizer.special, vocab_size)
    generators = [record_generator(seed, epoch, index) for index in indices]
    batch = masker.mask(input_ids, token_type_ids, boundaries, generators)

The masks of a record depend on its own generator and not on the batch it is part of, so they are
the same for any number of workers and after any resumption.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from funnel.config.model import ModelConfig
from funnel.config.pretraining import SAMPLE_STRATEGIES, TargetSettings
from funnel.pretraining.spans import (
    check_boundaries,
    place_spans,
    select_spans,
    select_targets,
    span_lengths,
    word_edges,
)
from funnel.tokenization.special_tokens import SpecialIds
from funnel.utils.errors import ConfigError, DataError

# Mean number of word pieces per word that the original assumes: word spans are placed closer
# together by this factor, so that they cover about as many tokens as token spans do.
TOKENS_PER_WORD = 1.2
# Part of the Philox key: separates these random numbers from other users of the same seed.
_KEY_DOMAIN = int.from_bytes(b"masking", "big")


@dataclass(frozen=True)
class MaskingConfig:
    """How targets are chosen and replaced.

    The fields have the names of the flags, except ``truncate_stride``, which follows from the
    model.

    Attributes:
        seq_len: T, tokens per record.
        num_predict: P, targets per record (fewer only if the record has fewer tokens).
        sample_strategy: ``single_token`` (uniform), ``whole_word``, ``token_span`` (``min_tok`` to
            ``max_tok`` tokens) or ``word_span`` (``min_word`` to ``max_word`` words).
        leak_ratio: fraction of targets left unchanged in the input.
        rand_ratio: fraction of targets replaced by a random token; the others become [MASK].
        truncate_stride: result of :func:`truncation_stride`; 0 disables truncation.
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
        # None is the value of a flag that was not given.
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
        """Whether the strategy needs the word boundaries of the records."""
        return self.sample_strategy in ("whole_word", "word_span")


class MaskedBatch(NamedTuple):
    """B masked records of T tokens with P target slots each, as NumPy arrays.

    Attributes:
        masked_input: int64 [B, T], input of the model (of ELECTRA: of the generator).
        origin_input: int64 [B, T], the same without masking.
        token_type_ids: int64 [B, T], segment ids as in the record.
        is_target: bool [B, T].
        target: int64 [B, P], original ids of the targets in the order of their positions; empty
            slots come last and hold 0.
        target_mask: bool [B, P], True for a target, False for an empty slot.
        target_positions: int64 [B, P], positions of the targets; 0 in empty slots.
        attention_mask: bool [B, T], True for a token, False for padding.
        mlm_attention_mask: bool [B, T], True for a token that is not [MASK]: the keys that masked
            language modelling attends to.
        noise_seeds: uint64 [B], a seed below 2^63 for everything else that is random about each
            record; None if the batch was not made by :meth:`Masker.mask`.
        corrupt: error messages of the corrupt records that others replaced.
    """

    masked_input: np.ndarray
    origin_input: np.ndarray
    token_type_ids: np.ndarray
    is_target: np.ndarray
    target: np.ndarray
    target_mask: np.ndarray
    target_positions: np.ndarray
    attention_mask: np.ndarray
    mlm_attention_mask: np.ndarray
    noise_seeds: np.ndarray | None = None
    corrupt: tuple[str, ...] = ()


class MaskingRandoms(NamedTuple):
    """The uniform random numbers in [0, 1), float64, that the masking of B records needs.

    Attributes:
        token: [B, T], single tokens are chosen in ascending order of it.
        order: [B, T], words or spans are visited in ascending order of it.
        length: [B, P], selects the length of each span.
        left: [B, P], selects the place of each span in its slot.
        treatment: [B, P], selects whether a target is left unchanged, random or [MASK].
        random_id: [B, P], selects the random token.
    """

    token: np.ndarray
    order: np.ndarray
    length: np.ndarray
    left: np.ndarray
    treatment: np.ndarray
    random_id: np.ndarray


def record_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random generator of one record in one epoch, a function of its arguments alone.

    Philox (Salmon et al. 2011) is a counter-based generator: ``epoch`` and ``index`` are put into
    the high words of its counter, so the numbers of different records never overlap and no state
    has to be saved.

    Args:
        seed: seed of the run.
        epoch: number of the epoch.
        index: number of the record in the data set.

    Raises:
        ConfigError: an argument is negative or exceeds 64 bits.
    """
    # Python integers: NumPy's would overflow when shifted.
    seed, epoch, index = operator.index(seed), operator.index(epoch), operator.index(index)
    for key, value in (("seed", seed), ("epoch", epoch), ("record index", index)):
        if not 0 <= value < 1 << 64:
            raise ConfigError(f"{key}: {value} should be from 0 to 2^64 - 1")
    counter = (epoch << 192) | (index << 128)
    return np.random.Generator(np.random.Philox(key=(_KEY_DOMAIN << 64) | seed, counter=counter))


def truncation_stride(model: ModelConfig) -> int:
    """Return the number of tokens to truncate at the end of a record for this model, 0 for none.

    Pooling with ``truncate_seq`` drops the last position of the input of every block. Truncated
    records end in padding at those positions, so that no target is dropped. Without a separate
    [CLS] nothing is dropped.
    """
    return model.upsample_factor if model.truncate_seq and model.separate_cls else 0


def target_mapping(positions: np.ndarray, mask: np.ndarray, length: int) -> np.ndarray:
    """Return one-hot rows that select the targets from a sequence, float32 [B, P, T].

    Args:
        positions: ``target_positions``, integers [B, P].
        mask: ``target_mask`` [B, P]; the rows of empty slots are all zero.
        length: T.
    """
    return ((positions[..., None] == np.arange(length)) & mask[..., None]).astype(np.float32)


def sample_randoms(
    config: MaskingConfig, generators: Sequence[np.random.Generator]
) -> MaskingRandoms:
    """Draw the random numbers of ``len(generators)`` records, one row from each generator."""
    # All strategies draw all numbers, in one block and in a fixed layout. The layout is part of the
    # meaning of a seed: a run that is resumed with a newer version must get the same masks.
    sizes = (config.seq_len,) * 2 + (config.num_predict,) * 4
    numbers = np.empty((len(generators), sum(sizes)))
    for row, generator in zip(numbers, generators, strict=True):
        generator.random(out=row)
    return MaskingRandoms(*np.split(numbers, np.cumsum(sizes)[:-1], axis=1))


class Masker:
    """Masks batches of records. It has no state and can be pickled.

    Special tokens are never targets, except the unknown token, which represents text.

    Attributes:
        config: how targets are chosen.
        special: ids of the special tokens.
        is_text: bool [vocab_size], the ids that may be targets.
        random_ids: int64 [n], the ids from which random replacements are drawn: the vocabulary
            without the special tokens (the original includes them).

    Raises:
        ConfigError: the vocabulary does not contain all special tokens, or nothing else.
    """

    def __init__(self, config: MaskingConfig, special: SpecialIds, vocab_size: int) -> None:
        reserved = np.array(sorted({*special.functional, special.unk_id}))
        if reserved[0] < 0 or reserved[-1] >= vocab_size:
            raise ConfigError(f"vocab_size: {vocab_size} leaves out special id {reserved[-1]}")
        self.config = config
        self.special = special
        self.is_text = np.ones(vocab_size, bool)
        self.is_text[list(special.functional)] = False
        # The unknown token may be a target, since it represents text, but not a replacement.
        self.random_ids = np.setdiff1d(np.arange(vocab_size), reserved)
        if not len(self.random_ids):
            raise ConfigError(f"vocab_size: {vocab_size} holds nothing but special symbols")

    def mask(
        self,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray,
        boundaries: Sequence[np.ndarray] | None,
        generators: Sequence[np.random.Generator],
    ) -> MaskedBatch:
        """Choose the targets of B records and replace them.

        Args:
            input_ids: token ids of the records, integers [B, T].
            token_type_ids: their segment ids, integers [B, T].
            boundaries: for each record the positions at which words begin (ascending), followed by
                T, as :mod:`funnel.pretraining.create_records` writes them; only the word strategies
                use them.
            generators: one per record, see :func:`record_generator`.

        Raises:
            DataError: records of a length other than ``seq_len``, ids outside the vocabulary, or
                invalid boundaries.
        """
        randoms = sample_randoms(self.config, generators)
        batch = self.apply(input_ids, token_type_ids, boundaries, randoms)
        # Drawn last, so that the masks do not depend on whether noise is needed.
        seeds = [generator.integers(1 << 63, dtype=np.uint64) for generator in generators]
        return batch._replace(noise_seeds=np.array(seeds, np.uint64))

    def apply(
        self,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray,
        boundaries: Sequence[np.ndarray] | None,
        randoms: MaskingRandoms,
    ) -> MaskedBatch:
        """Mask as :meth:`mask` does, with given random numbers and without noise seeds."""
        origin = self._checked(input_ids)
        is_text, usable = self._candidates(origin)
        selected = self._selected(is_text, usable, boundaries, randoms)
        positions, target_mask = select_targets(
            self.config.num_predict, is_text, selected, randoms.token
        )
        target = np.where(target_mask, np.take_along_axis(origin, positions, 1), 0)
        origin = self._truncated(origin)

        # Filled slots only: the position of an empty slot is 0, which is [CLS].
        rows, slots = np.nonzero(target_mask)
        places = rows, positions[rows, slots]
        masked = origin.copy()
        masked[places] = self._replacements(target, randoms)[rows, slots]
        is_target = np.zeros(origin.shape, bool)
        is_target[places] = True
        attention_mask = origin != self.special.pad_id
        return MaskedBatch(
            masked_input=masked,
            origin_input=origin,
            token_type_ids=np.asarray(token_type_ids, np.int64),
            is_target=is_target,
            target=target,
            target_mask=target_mask,
            target_positions=positions,
            attention_mask=attention_mask,
            mlm_attention_mask=attention_mask & (masked != self.special.mask_id),
        )

    def _checked(self, input_ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(input_ids, np.int64)
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

    def _candidates(self, input_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions allowed as targets, bool [B, T], and the usable lengths, int [B].

        The usable length excludes truncated tokens and padding.
        """
        stop = self.config.seq_len - self.config.truncate_stride
        inside = np.arange(input_ids.shape[1]) < stop
        real = (input_ids != self.special.pad_id) & inside
        # The last True of each row, found as the first one from the right.
        usable = np.where(real.any(1), input_ids.shape[1] - real[:, ::-1].argmax(1), 0)
        return self.is_text[input_ids] & inside, usable

    def _truncated(self, input_ids: np.ndarray) -> np.ndarray:
        """Return the records with their last ``truncate_stride`` tokens as [SEP] and padding."""
        if not self.config.truncate_stride:
            return input_ids
        truncated = input_ids.copy()
        stop = self.config.seq_len - self.config.truncate_stride
        ended_before = input_ids[:, stop] == self.special.pad_id
        truncated[:, stop:] = self.special.pad_id
        # A record that has ended in padding before needs no second [SEP].
        truncated[~ended_before, stop] = self.special.sep_id
        return truncated

    def _selected(
        self,
        is_text: np.ndarray,
        usable: np.ndarray,
        boundaries: Sequence[np.ndarray] | None,
        randoms: MaskingRandoms,
    ) -> np.ndarray | None:
        """Return the tokens of the selected words or spans, bool [B, T], at most P per record.

        None for ``single_token``, which selects no spans.
        """
        config = self.config
        if config.sample_strategy == "single_token":
            return None
        if config.sample_strategy == "token_span":
            lengths = span_lengths(randoms.length, config.min_tok, config.max_tok)
            # One slot per target: together the slots are longer than the text, see place_spans.
            begin, end = place_spans(lengths, randoms.left, usable / config.num_predict, usable)
            return select_spans(begin, end, randoms.order, is_text, config.num_predict)
        boundaries = check_boundaries(boundaries, *is_text.shape)
        edges, num_words = word_edges(boundaries, usable, config.seq_len)
        if config.sample_strategy == "whole_word":
            begin, end = edges[:, :-1], edges[:, 1:]
        else:
            # Spans are placed in units of words, then mapped to tokens through the word edges.
            lengths = span_lengths(randoms.length, config.min_word, config.max_word)
            per_word = usable / config.num_predict / TOKENS_PER_WORD
            spans = place_spans(lengths, randoms.left, per_word, num_words)
            begin, end = (np.take_along_axis(edges, words, 1) for words in spans)
        return select_spans(begin, end, randoms.order, is_text, config.num_predict)

    def _replacements(self, target: np.ndarray, randoms: MaskingRandoms) -> np.ndarray:
        """Return the input id that replaces each target, int64 [B, P].

        One uniform number u decides per target: u < leak leaves it unchanged, u < leak + rand
        makes it a random token, otherwise it becomes [MASK].
        """
        leak, rand = self.config.leak_ratio, self.config.rand_ratio
        random_ids = self.random_ids[(randoms.random_id * len(self.random_ids)).astype(np.int64)]
        hidden = np.where(randoms.treatment < leak + rand, random_ids, self.special.mask_id)
        return np.where(randoms.treatment < leak, target, hidden)
