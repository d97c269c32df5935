"""Lengths and positions of pooled sequences as plain integers, shared by both backends.

The positions of a block form an arithmetic progression (Dai et al. 2020, section 2.2 and
appendix A.2), described by its length, first position and stride. All functions use only
``+ - * //`` and comparisons, so that symbolic lengths (``torch.export``) can be passed.
"""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class BlockGeometry:
    """Positions of one block in terms of the input sequence.

    Attributes:
        length: number of positions.
        start: position id of index 0. With a separate [CLS], index 1 has position id 1, so index 0
            gets ``1 - stride`` to keep the progression regular.
        stride: input positions between neighbours.
        pooled: whether the sequence is pooled on entering this block.
    """

    length: int
    start: int
    stride: int
    pooled: bool = False


@dataclass(frozen=True)
class RelativeRange:
    """Relative distances that the ``rel_shift`` attention of a layer needs, in descending order.

    Row t of the table of distance embeddings is for distance ``first - step * t``. The distance of
    query i and key j is in row ``j - ratio * i + offset``, where ``ratio`` is the query's stride
    over the key's. The position scores are computed for all rows, [query, count]; moving one query
    down moves the needed rows by ``ratio`` to the left. So the shift is a reshape: flatten the
    scores, skip ``offset`` entries and view the rest as rows of ``count - ratio``.
    """

    first: int
    step: int
    count: int
    ratio: int
    offset: int

    def of_first_query(self) -> RelativeRange:
        """Return the distances of query 0, a part of these."""
        count = self.count - self.offset
        return RelativeRange(self.first - self.step * self.offset, self.step, count, self.ratio, 0)


def cut_length(length: int, config: ModelConfig) -> int:
    """Return the number of positions that are pooled: ``truncate_seq`` drops the last one."""
    return length - 1 if config.separate_cls and config.truncate_seq else length


def pooled_length(length: int, config: ModelConfig) -> int:
    """Return the length after pooling once; the last window may be incomplete."""
    # In the same form as the frameworks' shape inference, so that symbolic lengths compare equal.
    size, kept = config.pooling_size, cut_length(length, config)
    # ceil(n / size) = (n - 1) // size + 1; a separate [CLS] is one position more on both sides.
    if config.separate_cls:
        return (kept - 2) // size + 2
    return (kept - 1) // size + 1


def encoder_geometry(config: ModelConfig, length: int) -> tuple[BlockGeometry, ...]:
    """Return the geometry of every block for an input of ``length`` tokens.

    A sequence too short to pool (two positions with a separate [CLS], one without) keeps the
    geometry of the previous block.
    """
    smallest = 2 if config.separate_cls else 1
    geometry = [BlockGeometry(length, 0, 1)]
    for _ in config.blocks[1:]:
        last = geometry[-1]
        if last.length <= smallest:
            geometry.append(BlockGeometry(last.length, last.start, last.stride))
            continue
        # A pooled position is at the first position of its window. Index 1 keeps position id 1.
        stride = last.stride * config.pooling_size
        start = 1 - stride if config.separate_cls else 0
        geometry.append(BlockGeometry(pooled_length(last.length, config), start, stride, True))
    return tuple(geometry)


def check_length(config: ModelConfig, max_length: int) -> None:
    """Check that a model can compute sequences of up to ``max_length`` tokens.

    Raises:
        ConfigError: there are fewer absolute positions, or the blocks pool the longest sequence to
            less than one position: then the last ones pool nothing.
    """
    if config.rel_attn_type == "null" and max_length > MAX_ABSOLUTE_POSITIONS:
        raise ConfigError(
            f"max_length={max_length}: a model with rel_attn_type 'null' has "
            f"{MAX_ABSOLUTE_POSITIONS} positions"
        )
    if config.upsample_factor > max(1, max_length):
        raise ConfigError(
            f"max_length={max_length}: the {len(config.blocks)} blocks of block_size pool "
            f"{config.upsample_factor} tokens to one; use longer sequences or fewer blocks"
        )


def relative_range(query: BlockGeometry, key: BlockGeometry) -> RelativeRange:
    """Return the distances between the positions of ``query`` and those of ``key``.

    ``count`` is ``ratio * query.length + key.length``, ``ratio`` more than there are distances:
    with that padding the shifted rows are a view of the scores, without a copy.
    """
    # In the first layer of a block a pooled query attends to unpooled keys: ratio is then the
    # pooling size, else 1. Row 0 is for the largest distance, of the last query to the first key.
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
    """Return the shortest padded length with the same outputs as padding to ``max_length``.

    A pooling window that mixes the last real tokens with padding must contain as much padding as
    it would in the longer sequence, and truncation must drop nothing but padding.
    """
    size = config.upsample_factor
    separate = 1 if config.separate_cls else 0
    # Complete windows of the last block, each upsample_factor tokens, after [CLS].
    windows = (num_tokens - separate + size - 1) // size
    length = separate + windows * size
    if config.separate_cls and config.truncate_seq:
        # Each pooling drops one position of its input, which spans pooling_size ** block tokens.
        length += sum(config.pooling_size**block for block in range(len(config.blocks) - 1))
    return min(length, max_length)
