"""Target sampling for pretraining in a graph: what :mod:`funnel.pretraining.masking` does, on the
host.

The strategies, and every rule of them, are explained there; this module computes the same from the
same random numbers. It belongs into a ``tf.data`` pipeline: chance comes from a pair of integers
that numbers the batch, so a run that continues draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.pretraining.masking import TOKENS_PER_WORD, Masker, MaskingConfig
from funnel.pretraining.spans import length_bounds


class GraphMaskingRandoms(NamedTuple):
    """All chance in the masking of B records, see ``funnel.pretraining.masking.MaskingRandoms``."""

    token: tf.Tensor
    order: tf.Tensor
    length: tf.Tensor
    left: tf.Tensor
    treatment: tf.Tensor
    random_id: tf.Tensor


class GraphRecords(NamedTuple):
    """B pretraining records.

    Attributes:
        inputs: token ids, int32 [B, T].
        seg_id: int32 [B, T].
        boundaries: where words begin, rising, then T in all places left, int32 [B, T + 1]; None
            for strategies without words.
    """

    inputs: tf.Tensor
    seg_id: tf.Tensor
    boundaries: tf.Tensor | None


def sample_randoms(config: MaskingConfig, batch_size: int, seed: tf.Tensor) -> GraphMaskingRandoms:
    """Draw what the masking of ``batch_size`` records needs; ``seed`` (int64 [2]) decides it."""
    sizes = (config.seq_len,) * 2 + (config.num_predict,) * 4
    numbers = tf.random.stateless_uniform([batch_size, sum(sizes)], seed)
    return GraphMaskingRandoms(*tf.split(numbers, sizes, axis=1))


def mask_records(
    masker: Masker, records: GraphRecords, draws: GraphMaskingRandoms
) -> dict[str, tf.Tensor]:
    """Choose exactly ``num_predict`` = P targets in every record, if it has as many tokens.

    Args:
        masker: settings and vocabulary.
        records: B records of T tokens; B must be known when the graph is built.
        draws: see :func:`sample_randoms`.

    Returns:
        The fields of :class:`funnel.pretraining.masking.MaskedBatch` by name: ids and positions
        int32, masks float32 (1 = true), with static shapes.
    """
    config, special = masker.config, masker.special
    origin = records.inputs
    is_text, usable = _candidates(masker, origin)
    picked = _picked(config, is_text, usable, records.boundaries, draws)
    positions, target_mask = _exactly(config.num_predict, is_text, picked, draws.token)
    target = tf.where(target_mask, _take(origin, positions), tf.zeros_like(positions))
    origin = _truncated(masker, origin)

    # Empty slots are scattered to a column behind the last one, which is then cut off.
    places = tf.where(target_mask, positions, config.seq_len * tf.ones_like(positions))
    is_target = _scatter(places, tf.ones_like(places), config.seq_len) > 0
    replaced = _scatter(places, _replacements(masker, target, draws), config.seq_len)
    masked = tf.where(is_target, replaced, origin)
    pad_mask = tf.equal(origin, special.pad_id)
    masks = {
        "is_target": is_target,
        "target_mask": target_mask,
        "input_mask": pad_mask | tf.equal(masked, special.mask_id),
        "pad_mask": pad_mask,
    }
    return {
        "masked_input": masked,
        "origin_input": origin,
        "seg_id": records.seg_id,
        "target": target,
        "target_positions": positions,
        **{name: tf.cast(mask, tf.float32) for name, mask in masks.items()},
    }


def _candidates(masker: Masker, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where targets may be, bool [B, T], and usable length [B]: up to the cut or padding."""
    position = tf.range(masker.config.seq_len)
    inside = position < masker.config.seq_len - masker.config.truncate_stride
    real = tf.not_equal(inputs, masker.special.pad_id) & inside
    usable = tf.reduce_max(tf.where(real, position + tf.ones_like(inputs), 0 * inputs), 1)
    return tf.gather(tf.constant(masker.is_text), inputs) & inside, usable


def _truncated(masker: Masker, inputs: tf.Tensor) -> tf.Tensor:
    """The records as they are fed: a cut one ends in [SEP] and padding."""
    stride, pad_id = masker.config.truncate_stride, masker.special.pad_id
    if not stride:
        return inputs
    stop = masker.config.seq_len - stride
    after = inputs[:, stop : stop + 1]
    first = tf.where(tf.equal(after, pad_id), after, masker.special.sep_id * tf.ones_like(after))
    return tf.concat([inputs[:, :stop], first, pad_id * tf.ones_like(inputs[:, stop + 1 :])], 1)


def _picked(
    config: MaskingConfig,
    is_text: tf.Tensor,
    usable: tf.Tensor,
    boundaries: tf.Tensor | None,
    draws: GraphMaskingRandoms,
) -> tf.Tensor | None:
    """What the strategy picks, bool [B, T], at most P of a record; None: nothing."""
    if config.sample_strategy == "single_token":
        return None
    length = tf.cast(usable, tf.float64)
    if config.sample_strategy == "token_span":
        lengths = _span_lengths(draws.length, config.min_tok, config.max_tok)
        begin, end = _spread(lengths, draws.left, length / config.num_predict, usable)
        return _walk(begin, end, draws.order, is_text, config.num_predict)
    # Word w spans edges[w]..edges[w + 1]; behind the last word all edges are the usable length.
    edges = tf.minimum(boundaries, usable[:, None])
    if config.sample_strategy == "whole_word":
        begin, end = edges[:, :-1], edges[:, 1:]
    else:
        num_words = tf.reduce_sum(tf.cast(boundaries < usable[:, None], tf.int32), 1)
        lengths = _span_lengths(draws.length, config.min_word, config.max_word)
        per_word = length / config.num_predict / TOKENS_PER_WORD
        spans = _spread(lengths, draws.left, per_word, num_words)
        begin, end = (_take(edges, words) for words in spans)
    return _walk(begin, end, draws.order, is_text, config.num_predict)


def _span_lengths(uniform: tf.Tensor, shortest: int, longest: int) -> tf.Tensor:
    bounds = tf.constant(length_bounds(shortest, longest))
    beyond = tf.cast(uniform, tf.float64)[..., None] >= bounds
    return shortest + tf.reduce_sum(tf.cast(beyond, tf.int32), -1)


def _spread(
    lengths: tf.Tensor, left: tf.Tensor, alpha: tf.Tensor, stop: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Spans in slots ``alpha`` times as long as they; see ``funnel.pretraining.spans``."""
    stretch, size = alpha[:, None], tf.cast(lengths, tf.float64)
    slots = tf.cast(tf.rint(size * stretch), tf.int32)
    before = tf.cast(tf.rint(tf.cast(left, tf.float64) * size * (stretch - 1)), tf.int32)
    begin = tf.cumsum(slots, axis=1, exclusive=True) + before
    end = begin + lengths
    fits, nowhere = end <= stop[:, None], tf.zeros_like(begin)
    begin, end = tf.where(fits, begin, nowhere), tf.where(fits, end, nowhere)
    return tf.maximum(begin, 0), tf.maximum(end, 0)


def _walk(
    begin: tf.Tensor, end: tf.Tensor, order: tf.Tensor, is_text: tf.Tensor, most: int
) -> tf.Tensor:
    """Visit spans in random order, mark the ``most`` first tokens met: bool [B, T].

    See :func:`funnel.pretraining.spans.select_spans`.
    """
    batch, length = is_text.shape.as_list()
    visits = tf.argsort(order[:, : begin.shape[1]], axis=1, stable=True)
    first = _take(begin, visits)
    count = tf.maximum(_take(end, visits) - first, 0)
    # One flat list of all positions met, record by record.
    rows = tf.repeat(tf.range(batch), tf.reduce_sum(count, 1))
    count = tf.reshape(count, [-1])
    started = tf.cumsum(count, exclusive=True)
    positions = tf.repeat(tf.reshape(first, [-1]) - started, count) + tf.range(tf.size(rows))
    met = tf.gather_nd(is_text, tf.stack([rows, positions], 1))
    rows, positions = tf.boolean_mask(rows, met), tf.boolean_mask(positions, met)
    per_row = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, batch)
    rank = tf.range(tf.size(rows)) - tf.gather(tf.cumsum(per_row, exclusive=True), rows)
    marked = tf.boolean_mask(tf.stack([rows, positions], 1), rank < most)
    times = tf.scatter_nd(marked, tf.ones_like(marked[:, 0]), [batch, length])
    return times > 0


def _exactly(
    count: int, is_text: tf.Tensor, picked: tf.Tensor | None, token: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions [B, P] of ``count`` = P targets in rising order, and which of them are real."""
    length = is_text.shape[1]
    rank = tf.where(is_text, token, 2.0 * tf.ones_like(token))
    if picked is not None:
        rank = tf.where(picked, -tf.ones_like(rank), rank)
    smallest, chosen = tf.nn.top_k(-rank, count)
    chosen = tf.where(smallest < -1.0, length * tf.ones_like(chosen), chosen)
    chosen = tf.sort(chosen, axis=1)
    real = chosen < length
    return tf.where(real, chosen, tf.zeros_like(chosen)), real


def _replacements(masker: Masker, target: tf.Tensor, draws: GraphMaskingRandoms) -> tf.Tensor:
    """What stands in the input in place of each target, int32 [B, P]."""
    leak, rand = masker.config.leak_ratio, masker.config.rand_ratio
    treatment = tf.cast(draws.treatment, tf.float64)
    share = tf.cast(draws.random_id, tf.float64) * len(masker.random_ids)
    random_ids = tf.gather(tf.constant(masker.random_ids, tf.int32), tf.cast(share, tf.int32))
    mask_id = masker.special.mask_id * tf.ones_like(target)
    hidden = tf.where(treatment < leak + rand, random_ids, mask_id)
    return tf.where(treatment < leak, target, hidden)


def _take(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """``values[b, indices[b, i]]``: [B, I]."""
    return tf.gather(values, indices, batch_dims=1)


def _scatter(places: tf.Tensor, values: tf.Tensor, length: int) -> tf.Tensor:
    """``values`` [B, P] at ``places`` of rows of ``length``; those at ``length`` are dropped."""
    batch, count = places.shape.as_list()
    rows = tf.repeat(tf.range(batch), count)
    indices = tf.stack([rows, tf.reshape(places, [-1])], 1)
    return tf.scatter_nd(indices, tf.reshape(values, [-1]), [batch, length + 1])[:, :length]
