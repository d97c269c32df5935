"""Reference masking, one record and one step at a time, and random records for tests."""

from __future__ import annotations

import numpy as np

from funnel.pretraining.masking import MaskingConfig, MaskingRandoms
from funnel.tokenization.special_tokens import SpecialIds

SPECIAL = SpecialIds(
    unk_id=0,
    bos_id=1,
    eos_id=2,
    cls_id=3,
    sep_id=4,
    pad_id=5,
    mask_id=6,
    eod_id=7,
    eop_id=8,
)
RESERVED = range(9)
VOCAB_SIZE = 60


def random_records(rng, count, length, tokens_per_word=1.2, padded=False, vocab=VOCAB_SIZE):
    """Return ids [B, T], segment ids [B, T] and word boundaries of ``[CLS] a [SEP] b [SEP]``."""
    inputs = rng.integers(len(RESERVED), vocab, (count, length))
    inputs[rng.random(inputs.shape) < 0.01] = SPECIAL.unk_id
    segments = np.zeros_like(inputs)
    boundaries = []
    for row, segment in zip(inputs, segments, strict=True):
        last = int(rng.integers(3, length)) if padded else length - 1
        middle = int(rng.integers(1, last))
        row[[0, middle, last]] = SPECIAL.cls_id, SPECIAL.sep_id, SPECIAL.sep_id
        row[last + 1 :] = SPECIAL.pad_id
        segment[0], segment[middle + 1 : last + 1] = 2, 1
        starts = rng.random(length) < 1 / tokens_per_word
        starts[[1, middle + 1 if middle + 1 < length else 1]] = True
        starts &= ~np.isin(row, list(SPECIAL.functional))
        boundaries.append(np.append(np.flatnonzero(starts), length))
    return inputs, segments, boundaries


def take_row(randoms: MaskingRandoms, row: int) -> MaskingRandoms:
    """Return the random numbers of one record as lists."""
    return MaskingRandoms(*(part[row].tolist() for part in randoms))


def reference_masking(ids, boundary, config: MaskingConfig, randoms: MaskingRandoms):
    """Return (truncated ids, masked ids, sorted target positions) of one record, as lists."""
    ids, boundary = [int(i) for i in ids], [int(i) for i in boundary]
    stop = config.seq_len - config.truncate_stride
    while stop and ids[stop - 1] == SPECIAL.pad_id:
        stop -= 1
    allowed = [p for p in range(stop) if ids[p] not in SPECIAL.functional]
    words = [b for b in boundary if b < stop] + [stop]

    marked: list[int] = []
    met = 0
    for begin, end in _spans_in_order(stop, words, config, randoms):
        for position in range(begin, end):
            if position in allowed and met < config.num_predict:
                met += 1
                if position not in marked:
                    marked.append(position)
    others = sorted(set(allowed) - set(marked), key=lambda p: randoms.token[p])
    targets = sorted(marked + others[: config.num_predict - len(marked)])

    origin = list(ids)
    if config.truncate_stride:
        cut = config.seq_len - config.truncate_stride
        ending = SPECIAL.pad_id if ids[cut] == SPECIAL.pad_id else SPECIAL.sep_id
        origin[cut:] = [ending] + [SPECIAL.pad_id] * (config.truncate_stride - 1)
    masked = list(origin)
    text = [i for i in range(VOCAB_SIZE) if i not in RESERVED]
    for slot, position in enumerate(targets):
        if randoms.treatment[slot] < config.leak_ratio:
            continue
        if randoms.treatment[slot] < config.leak_ratio + config.rand_ratio:
            masked[position] = text[int(randoms.random_id[slot] * len(text))]
        else:
            masked[position] = SPECIAL.mask_id
    return origin, masked, targets


def _spans_in_order(stop, words, config: MaskingConfig, randoms: MaskingRandoms):
    """Return (begin, end) in tokens of the words or spans, in their random order."""
    strategy, count = config.sample_strategy, config.num_predict
    if strategy == "single_token":
        return []
    if strategy == "whole_word":
        pairs = [(words[w], words[w + 1]) for w in range(len(words) - 1)]
        return [pairs[w] for w in sorted(range(len(pairs)), key=lambda w: randoms.order[w])]
    by_words = strategy == "word_span"
    shortest = config.min_word if by_words else config.min_tok
    longest = config.max_word if by_words else config.max_tok
    alpha = stop / count / 1.2 if by_words else stop / count
    limit = len(words) - 1 if by_words else stop
    lefts, rights, kept = [], [], []
    for j in range(count):
        n = _length(randoms.length[j], shortest, longest)
        lefts.append(round(randoms.left[j] * n * (alpha - 1)))
        rights.append(round(n * alpha) - lefts[j])
        begin = sum(lefts) + sum(rights[:-1])
        if begin + n <= limit:
            kept.append((randoms.order[j], max(begin, 0), max(begin + n, 0)))
    spans = [(begin, end) for _, begin, end in sorted(kept)]
    return [(words[b], words[e]) for b, e in spans] if by_words else spans


def _length(uniform, shortest, longest):
    weights = {n: 1 / (n + 1) for n in range(shortest, longest + 1)}
    bound = 0.0
    for n, weight in weights.items():
        bound += weight / sum(weights.values())
        if uniform < bound:
            return n
    return longest


def mean_run(is_target):
    """Return the mean number of neighbouring targets in bool [B, T]."""
    edges = np.diff(np.pad(is_target, ((0, 0), (1, 1))).astype(int), axis=1)
    return is_target.sum() / (edges == 1).sum()
