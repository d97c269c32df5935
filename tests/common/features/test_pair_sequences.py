"""Sequences put together from shared parts."""

import numpy as np
import pytest

from funnel.features.classification import SegmentIds
from funnel.features.pair_sequences import PairSequences, flatten, ranges


def _sequences():
    tokens, begins = flatten([[10, 11, 12, 13], [20, 21], []])
    return PairSequences(
        tokens=tokens,
        first_begins=begins[[1, 1, 2]],
        first_lengths=np.array([2, 2, 0]),
        second_begins=begins[[0, 0, 2]] + [0, 2, 0],
        second_lengths=np.array([3, 2, 0]),
        cls_id=1,
        sep_id=2,
        segments=SegmentIds(cls=7, a=8, b=9, pad=6),
    )


def test_sequences_by_hand():
    sequences = _sequences()
    assert len(sequences) == 3
    assert sequences.lengths.tolist() == [8, 7, 3]
    batch = sequences.pad([2, 0, 1], 9, pad_id=0)
    assert batch["input_ids"].tolist() == [
        [1, 2, 2, 0, 0, 0, 0, 0, 0],
        [1, 20, 21, 2, 10, 11, 12, 2, 0],
        [1, 20, 21, 2, 12, 13, 2, 0, 0],
    ]
    assert batch["token_type_ids"].tolist() == [
        [7, 8, 9, 6, 6, 6, 6, 6, 6],
        [7, 8, 8, 8, 9, 9, 9, 9, 6],
        [7, 8, 8, 8, 9, 9, 9, 6, 6],
    ]
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 8, 7]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


def test_no_sequence_and_too_long_a_one():
    sequences = _sequences()
    assert sequences.pad([], 4, 0)["input_ids"].shape == (0, 4)
    assert sequences.pad([0], 8, 0)["attention_mask"].all()
    with pytest.raises(ValueError, match="8 tokens, more than the length 7"):
        sequences.pad([1, 0], 7, 0)


def test_ranges_and_flatten_of_ragged_rows():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []
    row, offsets = flatten([[], [3], [4, 5]])
    assert (row.tolist(), offsets.tolist()) == ([3, 4, 5], [0, 0, 1, 3])
    assert row.dtype == np.int32
    assert flatten([])[1].tolist() == [0]
