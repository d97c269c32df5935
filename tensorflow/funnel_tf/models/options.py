"""Options that decide how a graph is built; what it computes is decided by ``ModelConfig``."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow.compat.v1 as tf


@dataclass(frozen=True)
class GraphOptions:
    """Mode, device and precision of a graph.

    Attributes:
        is_training: apply dropout.
        use_tpu: build the forms of operations that are fast on TPUs: embeddings by a product with
            one-hot vectors instead of a gather, heads by einsums, and others.
        use_bfloat16: compute products in bfloat16. Variables, LayerNorm, softmax, logits and
            losses stay float32.
    """

    is_training: bool = False
    use_tpu: bool = False
    use_bfloat16: bool = False

    @property
    def dtype(self) -> tf.DType:
        """Type of hidden states and of the weights that they are multiplied by."""
        return tf.bfloat16 if self.use_bfloat16 else tf.float32

    @property
    def resizes_by_products(self) -> bool:
        """Whether hidden states are pooled and repeated by products with constant matrices.

        Not in float32: a TPU's products would round hidden states to bfloat16.
        """
        return self.use_tpu and self.use_bfloat16
