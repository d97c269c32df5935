"""Lengths and positions under pooling, as plain integers: one truth for both frameworks.

Positions within a block form an arithmetic progression (Dai et al. 2020, section 2.2 and
appendix A.2): the block's geometry is its length, first position and stride. All functions use
only ``+ - * //`` and comparisons, so symbolic lengths (``torch.export``) pass through.
"""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.model import ModelConfig


@dataclass(frozen=True)
class BlockGeometry:
    """Where the positions of one block lie in the original sequence.

    Attributes:
        length: number of positions.
        start: position id of index 0. With a separate [CLS] it is ``1 - stride``, which makes
            the progression regular; [CLS] takes no part in position scores.
        stride: original positions between neighbours.
        pooled: whether the sequence was pooled on entering this block.
    """

    length: int
    start: int
    stride: int
    pooled: bool = False


@dataclass(frozen=True)
class RelativeRange:
    """The distances that a layer's ``rel_shift`` table needs, in falling order.

    Row t of the table holds distance ``first - step * t``. Query i and key j meet at row
    ``j - ratio * i + offset``: flattening a [query, row] score buffer, skipping ``offset``
    entries and cutting it into rows of ``count - ratio`` aligns all of them.
    """

    first: int
    step: int
    count: int
    ratio: int
    offset: int


def cut_length(length: int, config: ModelConfig) -> int:
    """Positions that pooling looks at: ``truncate_seq`` drops the last one."""
    return length - 1 if config.separate_cls and config.truncate_seq else length


def pooled_length(length: int, config: ModelConfig) -> int:
    """Length after pooling ``length`` positions once; the last window may be short."""
    # Written like the frameworks' own shape inference, so that symbolic lengths compare equal.
    size, kept = config.pooling_size, cut_length(length, config)
    if config.separate_cls:
        return (kept - 2) // size + 2
    return (kept - 1) // size + 1


def encoder_geometry(config: ModelConfig, length: int) -> tuple[BlockGeometry, ...]:
    """The geometry of every block for an input of ``length`` tokens.

    A block that is too short to pool (two positions with a separate [CLS], one without) keeps
    the geometry of the block before.
    """
    smallest = 2 if config.separate_cls else 1
    geometry = [BlockGeometry(length, 0, 1)]
    for _ in config.blocks[1:]:
        last = geometry[-1]
        if last.length <= smallest:
            geometry.append(BlockGeometry(last.length, last.start, last.stride))
            continue
        stride = last.stride * config.pooling_size
        start = 1 - stride if config.separate_cls else 0
        geometry.append(BlockGeometry(pooled_length(last.length, config), start, stride, True))
    return tuple(geometry)


def relative_range(query: BlockGeometry, key: BlockGeometry) -> RelativeRange:
    """The distances between the positions of ``query`` and those of ``key``.

    ``count`` is ``ratio * query.length + key.length`` (as the FLOPs formula counts): ``ratio``
    more than there are distances, which lets the rows be cut without a copy.
    """
    ratio = query.stride // key.stride
    offset = ratio * (query.length - 1)
    return RelativeRange(
        first=query.start - key.start + key.stride * offset,
        step=key.stride,
        count=ratio * query.length + key.length,
        ratio=ratio,
        offset=offset,
    )


def bucket_length(num_tokens: int, max_length: int, config: ModelConfig) -> int:
    """The shortest padded length that computes the same as padding to ``max_length``.

    A pooling window that mixes the last real tokens with padding must find as much padding as
    it would in the longer sequence, and truncation must find only padding to drop.
    """
    size = config.upsample_factor
    separate = 1 if config.separate_cls else 0
    windows = (num_tokens - separate + size - 1) // size
    length = separate + windows * size
    if config.separate_cls and config.truncate_seq:
        # Every pooling drops one position of its input, which spans pooling_size ** block tokens.
        length += sum(config.pooling_size**block for block in range(len(config.blocks) - 1))
    return min(length, max_length)
