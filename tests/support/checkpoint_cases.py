"""Small random checkpoints, and functions that compare and corrupt them; needs only numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from funnel.checkpoints import Checkpoint, expected_shapes
from funnel.config.model import ModelConfig

# Head sizes that differ from each other and do not multiply to the width: no shape fits by chance.
TINY = ModelConfig(
    vocab_size=31,
    d_model=12,
    d_embed=12,
    n_head=2,
    d_head=5,
    d_inner=14,
    block_size="1_1x2_2",
    decoder_size="2",
)
# One configuration for every special case of the variable names.
VARIANTS = {
    "plain": TINY,
    "encoder_only": TINY.replace(decoder_size="0"),
    "one_block": TINY.replace(block_size="3", decoder_size="0"),
    "relu": TINY.replace(ff_activation="relu", pooling_type="max", truncate_seq=False),
    "null": TINY.replace(rel_attn_type="null"),
    "projected": TINY.replace(d_embed=8),
    "decoder_repeats": TINY.replace(decoder_size="1x2"),
    "first_block_repeats": TINY.replace(block_size="1x2_1"),
    "pool_by_3": TINY.replace(pooling_size=3),
}
GENERATOR = {"d_model": 6, "n_head": 1, "d_inner": 8}


def random_checkpoint(config=TINY, heads=(), decoder=True, seed=0, num_labels=3, **metadata):
    """Return a checkpoint with random weights for encoder, decoder and ``heads``."""
    shapes = expected_shapes(
        config,
        decoder=decoder,
        heads=heads,
        num_labels=num_labels,
        cls_scope=metadata.get("cls_scope", "classification"),
        generator=config.replace(**GENERATOR),
    )
    random = np.random.default_rng(seed)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    return Checkpoint(config, tensors, metadata)


def with_slots(checkpoint):
    """Return the checkpoint with Adam slots and a step, as a FULL release has them."""
    slots = {}
    for name, values in checkpoint.tensors.items():
        slots[f"{name}/adam_m"] = values * np.float32(0.1)
        slots[f"{name}/adam_v"] = values * values
    slots["global_step"] = np.asarray(1000, np.int64)
    return Checkpoint(checkpoint.config, checkpoint.tensors, checkpoint.metadata, slots)


def assert_same(found, wanted):
    """Assert the same names, dtypes, shapes and bits."""
    assert sorted(found) == sorted(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        assert found[name].tobytes() == values.tobytes(), name


def flip(path: Path, position: int, mask: int = 0x40) -> None:
    """Flip bits of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(bytes(data))


def truncate(path: Path, size: int) -> None:
    """Keep the first ``size`` bytes of a file."""
    path.write_bytes(path.read_bytes()[:size])
