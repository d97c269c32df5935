"""Ways to pretrain a small Funnel for ``benchmarks/pooled_blocks.py``, one change each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MLM, ELECTRA = "mlm", "electra"
BLOCKS = {"block_size": "1_1_1", "decoder_size": "1"}


@dataclass(frozen=True)
class Variant:
    """One way to pretrain.

    Attributes:
        change: what differs from ``plain``, for table and figure.
        model: overrides of the model's settings.
        batch_scale: the batch size is multiplied and the number of steps divided by it.
        pooled_lr: factor of the learning rate of all pooled blocks.
        skip_dropout: rate at which positions of the skip connection are dropped at first; it falls
            linearly to 0 at half of the steps.
        no_skip_share: share of the steps in which there is no skip connection at all.
        unpooled_share: share of the steps in which windows of one position are pooled, that is
            nothing; pooling has no weights, so it can be switched on later.
        loss_type: ``mlm`` or ``electra``.
    """

    change: str
    model: dict[str, Any] = field(default_factory=dict)
    batch_scale: float = 1.0
    pooled_lr: float = 1.0
    skip_dropout: float = 0.0
    no_skip_share: float = 0.0
    unpooled_share: float = 0.0
    loss_type: str = MLM


VARIANTS = {
    "plain": Variant("1_1_1, decoder of 1"),
    "unpooled": Variant("never pooled", unpooled_share=1.0),
    "stack": Variant("a Transformer: no pooling, no skip", unpooled_share=1.0, no_skip_share=1.0),
    "stack_late": Variant(
        "a Transformer for half of the steps, then plain", unpooled_share=0.5, no_skip_share=0.5
    ),
    "no_skip": Variant("no skip connection for half of the steps", no_skip_share=0.5),
    "late": Variant("no pooling for half of the steps", unpooled_share=0.5),
    "skip_dropout": Variant("half of the skip connection dropped at first", skip_dropout=0.5),
    "small_init": Variant("initial weights 0.02 in place of 0.08", {"init_std": 0.02}),
    "pooled_lr": Variant("three times the rate for pooled blocks", pooled_lr=3.0),
    "large_batch": Variant("batches of 32, a quarter of the steps", batch_scale=4),
    "small_batch": Variant("batches of 2, four times the steps", batch_scale=0.25),
    "one_pooling": Variant("one pooling: 1_2", {"block_size": "1_2"}),
    "max": Variant("pooling by maximum", {"pooling_type": "max"}),
    "electra": Variant("ELECTRA from random weights", loss_type=ELECTRA),
}
