"""Target sampling for pretraining as a graph: :mod:`funnel.pretraining.masking` in TensorFlow.

That module describes the strategies; this one computes the same targets from the same random
numbers. It runs on the host in a ``tf.data`` pipeline. Its random numbers come from stateless
operations with a seed that includes the number of the batch. Stateful random operations could not
be saved with a run, whereas here a resumed run samples the masks that an uninterrupted run would
have sampled, without any saved state.

Everything is computed with operations on complete arrays; there is no loop over records or spans.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.pretraining.masking import TOKENS_PER_WORD, Masker, MaskingConfig
from funnel.pretraining.spans import length_bounds


class GraphMaskingRandoms(NamedTuple):
    """Random numbers for masking B records, see ``funnel.pretraining.masking.MaskingRandoms``."""

    token: tf.Tensor
    order: tf.Tensor
    length: tf.Tensor
    left: tf.Tensor
    treatment: tf.Tensor
    random_id: tf.Tensor


class GraphRecords(NamedTuple):
    """B pretraining records.

    Attributes:
        input_ids: int32 [B, T].
        token_type_ids: int32 [B, T].
        boundaries: positions at which words begin, ascending and padded with T, int32 [B, T + 1];
            None for strategies without words.
    """

    input_ids: tf.Tensor
    token_type_ids: tf.Tensor
    boundaries: tf.Tensor | None


def sample_randoms(config: MaskingConfig, batch_size: int, seed: tf.Tensor) -> GraphMaskingRandoms:
    """Sample the random numbers for ``batch_size`` records from a ``seed``, int64 [2]."""
    sizes = (config.seq_len,) * 2 + (config.num_predict,) * 4
    numbers = tf.random.stateless_uniform([batch_size, sum(sizes)], seed)
    return GraphMaskingRandoms(*tf.split(numbers, sizes, axis=1))


def mask_records(
    masker: Masker, records: GraphRecords, randoms: GraphMaskingRandoms
) -> dict[str, tf.Tensor]:
    """Choose exactly ``num_predict`` = P targets per record, or all tokens if there are fewer.

    Args:
        masker: settings and vocabulary.
        records: B records of T tokens; B must be static.
        randoms: see :func:`sample_randoms`.

    Returns:
        The arrays of :class:`funnel.pretraining.masking.MaskedBatch` by name: ids and positions
        int32, masks float32. All shapes are static.
    """
    config, special = masker.config, masker.special
    origin = records.input_ids
    is_text, usable = _find_candidates(masker, origin)
    picked = _apply_strategy(config, is_text, usable, records.boundaries, randoms)
    positions, target_mask = _choose_positions(config.num_predict, is_text, picked, randoms.token)
    target = tf.where(target_mask, _gather(origin, positions), tf.zeros_like(positions))
    origin = _truncate(masker, origin)

    # Empty slots are scattered to an additional last column, which is then removed.
    columns = tf.where(target_mask, positions, config.seq_len * tf.ones_like(positions))
    is_target = _scatter(columns, tf.ones_like(columns), config.seq_len) > 0
    replaced = _scatter(columns, _replace_tokens(masker, target, randoms), config.seq_len)
    masked = tf.where(is_target, replaced, origin)
    is_real = tf.not_equal(origin, special.pad_id)
    masks = {
        "is_target": is_target,
        "target_mask": target_mask,
        "attention_mask": is_real,
        "mlm_attention_mask": is_real & tf.not_equal(masked, special.mask_id),
    }
    return {
        "masked_input": masked,
        "origin_input": origin,
        "token_type_ids": records.token_type_ids,
        "target": target,
        "target_positions": positions,
        **{name: tf.cast(mask, tf.float32) for name, mask in masks.items()},
    }


def _find_candidates(masker: Masker, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return which tokens may be targets, bool [B, T], and the usable length of each record [B].

    The usable length ends before the truncated positions and before the padding.
    """
    position = tf.range(masker.config.seq_len)
    inside = position < masker.config.seq_len - masker.config.truncate_stride
    real = tf.not_equal(inputs, masker.special.pad_id) & inside
    usable = tf.reduce_max(tf.where(real, position + tf.ones_like(inputs), 0 * inputs), 1)
    return tf.gather(tf.constant(masker.is_text), inputs) & inside, usable


def _truncate(masker: Masker, inputs: tf.Tensor) -> tf.Tensor:
    """Replace the last ``truncate_stride`` positions by [SEP], unless padding, and padding.

    Pooling with ``truncate_seq`` drops positions at the end; this way it drops padding only.
    """
    stride, pad_id = masker.config.truncate_stride, masker.special.pad_id
    if not stride:
        return inputs
    stop = masker.config.seq_len - stride
    after = inputs[:, stop : stop + 1]
    first = tf.where(tf.equal(after, pad_id), after, masker.special.sep_id * tf.ones_like(after))
    return tf.concat([inputs[:, :stop], first, pad_id * tf.ones_like(inputs[:, stop + 1 :])], 1)


def _apply_strategy(
    config: MaskingConfig,
    is_text: tf.Tensor,
    usable: tf.Tensor,
    boundaries: tf.Tensor | None,
    randoms: GraphMaskingRandoms,
) -> tf.Tensor | None:
    """Return the tokens that the strategy picks, bool [B, T], at most P per record.

    None for ``single_token``, in which all candidates are equally likely. Otherwise
    :func:`_choose_positions` fills up records in which fewer than P tokens were picked.
    """
    if config.sample_strategy == "single_token":
        return None
    length = tf.cast(usable, tf.float64)
    if config.sample_strategy == "token_span":
        lengths = _span_lengths(randoms.length, config.min_tok, config.max_tok)
        begin, end = _place_spans(lengths, randoms.left, length / config.num_predict, usable)
        return _select_spans(begin, end, randoms.order, is_text, config.num_predict)
    # Word w is edges[w] .. edges[w + 1] - 1; after the last word all edges are the usable length.
    edges = tf.minimum(boundaries, usable[:, None])
    if config.sample_strategy == "whole_word":
        begin, end = edges[:, :-1], edges[:, 1:]
    else:
        num_words = tf.reduce_sum(tf.cast(boundaries < usable[:, None], tf.int32), 1)
        lengths = _span_lengths(randoms.length, config.min_word, config.max_word)
        per_word = length / config.num_predict / TOKENS_PER_WORD
        spans = _place_spans(lengths, randoms.left, per_word, num_words)
        begin, end = (_gather(edges, words) for words in spans)
    return _select_spans(begin, end, randoms.order, is_text, config.num_predict)


def _span_lengths(uniform: tf.Tensor, shortest: int, longest: int) -> tf.Tensor:
    """Map uniform numbers to span lengths by inverse transform sampling.

    float64, and the same bounds as NumPy's: a number next to a bound must fall on the same side.
    """
    bounds = tf.constant(length_bounds(shortest, longest))
    beyond = tf.cast(uniform, tf.float64)[..., None] >= bounds
    return shortest + tf.reduce_sum(tf.cast(beyond, tf.int32), -1)


def _place_spans(
    lengths: tf.Tensor, left: tf.Tensor, alpha: tf.Tensor, stop: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Place spans in consecutive slots, each ``alpha`` times as long as its span.

    See :func:`funnel.pretraining.spans.place_spans`. Spans that end after ``stop`` become empty.
    """
    stretch, size = alpha[:, None], tf.cast(lengths, tf.float64)
    slots = tf.cast(tf.rint(size * stretch), tf.int32)
    before = tf.cast(tf.rint(tf.cast(left, tf.float64) * size * (stretch - 1)), tf.int32)
    begin = tf.cumsum(slots, axis=1, exclusive=True) + before
    end = begin + lengths
    fits, nowhere = end <= stop[:, None], tf.zeros_like(begin)
    begin, end = tf.where(fits, begin, nowhere), tf.where(fits, end, nowhere)
    return tf.maximum(begin, 0), tf.maximum(end, 0)


def _select_spans(
    begin: tf.Tensor, end: tf.Tensor, order: tf.Tensor, is_text: tf.Tensor, most: int
) -> tf.Tensor:
    """Visit spans in random order and mark the first ``most`` candidates in them: bool [B, T].

    See :func:`funnel.pretraining.spans.select_spans`. Spans have different lengths, so the visited
    positions are kept in one flat list for all records, with the number of the record of each. The
    rank of a candidate within its record is its place in the list minus the number of candidates
    in earlier records.
    """
    batch, length = is_text.shape.as_list()
    visits = tf.argsort(order[:, : begin.shape[1]], axis=1, stable=True)
    first = _gather(begin, visits)
    count = tf.maximum(_gather(end, visits) - first, 0)
    rows = tf.repeat(tf.range(batch), tf.reduce_sum(count, 1))
    count = tf.reshape(count, [-1])
    started = tf.cumsum(count, exclusive=True)
    positions = tf.repeat(tf.reshape(first, [-1]) - started, count) + tf.range(tf.size(rows))
    is_candidate = tf.gather_nd(is_text, tf.stack([rows, positions], 1))
    rows, positions = (tf.boolean_mask(part, is_candidate) for part in (rows, positions))
    per_row = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, batch)
    rank = tf.range(tf.size(rows)) - tf.gather(tf.cumsum(per_row, exclusive=True), rows)
    marked = tf.boolean_mask(tf.stack([rows, positions], 1), rank < most)
    times = tf.scatter_nd(marked, tf.ones_like(marked[:, 0]), [batch, length])
    return times > 0


def _choose_positions(
    count: int, is_text: tf.Tensor, picked: tf.Tensor | None, token: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Choose ``count`` = P positions, those picked by the strategy first, then at random.

    Returns:
        Ascending positions int32 [B, P] and which of them are targets, bool [B, P]. Empty slots
        come last and hold 0.
    """
    length = is_text.shape[1]
    # -1 for picked tokens, uniform in [0, 1) for other candidates, 2 for everything else.
    rank = tf.where(is_text, token, 2.0 * tf.ones_like(token))
    if picked is not None:
        rank = tf.where(picked, -tf.ones_like(rank), rank)
    smallest, chosen = tf.nn.top_k(-rank, count)
    chosen = tf.where(smallest < -1.0, length * tf.ones_like(chosen), chosen)
    chosen = tf.sort(chosen, axis=1)
    real = chosen < length
    return tf.where(real, chosen, tf.zeros_like(chosen)), real


def _replace_tokens(masker: Masker, target: tf.Tensor, randoms: GraphMaskingRandoms) -> tf.Tensor:
    """Return the input for each target, int32 [B, P]: itself, a random token or [MASK]."""
    leak, rand = masker.config.leak_ratio, masker.config.rand_ratio
    treatment = tf.cast(randoms.treatment, tf.float64)
    share = tf.cast(randoms.random_id, tf.float64) * len(masker.random_ids)
    random_ids = tf.gather(tf.constant(masker.random_ids, tf.int32), tf.cast(share, tf.int32))
    mask_id = masker.special.mask_id * tf.ones_like(target)
    hidden = tf.where(treatment < leak + rand, random_ids, mask_id)
    return tf.where(treatment < leak, target, hidden)


def _gather(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Return ``values[b, indices[b, i]]``, [B, I]."""
    return tf.gather(values, indices, batch_dims=1)


def _scatter(columns: tf.Tensor, values: tf.Tensor, length: int) -> tf.Tensor:
    """Scatter ``values`` [B, P] to ``columns`` of [B, length]; column ``length`` is dropped."""
    batch, count = columns.shape.as_list()
    rows = tf.repeat(tf.range(batch), count)
    indices = tf.stack([rows, tf.reshape(columns, [-1])], 1)
    return tf.scatter_nd(indices, tf.reshape(values, [-1]), [batch, length + 1])[:, :length]
