"""Lengths and positions against pooling of explicit lists."""

import itertools

import pytest

from funnel.config.geometry import encoder_geometry, relative_range
from funnel.config.model import ModelConfig

CASES = list(itertools.product((True, False), (True, False), (2, 3)))


LENGTHS = range(1, 40)


def build_config(separate_cls, truncate_seq, pooling_size, blocks="1_1_1_1"):
    return ModelConfig(
        vocab_size=10, d_model=8, d_embed=8, n_head=1, d_head=8, d_inner=8, block_size=blocks,
        separate_cls=separate_cls, truncate_seq=truncate_seq, pooling_size=pooling_size,
    )  # fmt: skip


def literal_positions(separate_cls, truncate_seq, size, length):
    """Position ids block by block, pooled as lists."""
    blocks = [list(range(length))]
    for index in range(1, 4):
        last = blocks[-1]
        if len(last) <= (2 if separate_cls else 1):
            blocks.append(last)
        elif separate_cls:
            others = last[1:-1:size] if truncate_seq else last[1::size]
            blocks.append([1 - size**index, *others])
        else:
            blocks.append(last[::size])
    return blocks


@pytest.mark.parametrize(("separate_cls", "truncate_seq", "size"), CASES)
def test_positions(separate_cls, truncate_seq, size):
    config = build_config(separate_cls, truncate_seq, size)
    for length in LENGTHS:
        geometry = encoder_geometry(config, length)
        expected = literal_positions(separate_cls, truncate_seq, size, length)
        for block, positions in zip(geometry, expected, strict=True):
            found = [block.start + block.stride * index for index in range(block.length)]
            # A separate [CLS] has no position of its own: its score terms are masked.
            skip = 1 if separate_cls else 0
            assert found[skip:] == positions[skip:]
            assert len(found) == len(positions)


@pytest.mark.parametrize(("separate_cls", "truncate_seq", "size"), CASES)
def test_relative_range_places_every_distance(separate_cls, truncate_seq, size):
    config = build_config(separate_cls, truncate_seq, size)
    pairs = []
    for length in LENGTHS[::3]:
        geometry = encoder_geometry(config, length)
        pairs += [(block, block) for block in geometry]
        pairs += [(geometry[i + 1], geometry[i]) for i in range(3) if geometry[i + 1].pooled]
    for query, key in pairs:
        shift = relative_range(query, key)
        rows = [shift.first - shift.step * row for row in range(shift.count)]
        for i, j in itertools.product(range(query.length), range(key.length)):
            row = j - shift.ratio * i + shift.offset
            distance = (query.start + query.stride * i) - (key.start + key.stride * j)
            assert 0 <= row < shift.count
            assert rows[row] == distance


def test_lengths_of_powers_of_two_stay_powers_of_two():
    lengths = [block.length for block in encoder_geometry(build_config(True, True, 2), 512)]
    assert lengths == [512, 256, 128, 64]
    lengths = [block.length for block in encoder_geometry(build_config(True, False, 2), 8)]
    assert lengths == [8, 5, 3, 2]
