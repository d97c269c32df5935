"""How a graph is built, as opposed to what it computes, which a model's config says."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow.compat.v1 as tf


@dataclass(frozen=True)
class GraphOptions:
    """The device and the mode a graph is for.

    Attributes:
        is_training: dropout acts.
        use_tpu: embeddings are looked up by a product with one-hot vectors, not by a gather.
        use_bfloat16: products in bfloat16; variables, LayerNorm, softmax, logits and losses stay
            float32.
    """

    is_training: bool = False
    use_tpu: bool = False
    use_bfloat16: bool = False

    @property
    def dtype(self) -> tf.DType:
        """Of hidden states and of the weights they are multiplied by."""
        return tf.bfloat16 if self.use_bfloat16 else tf.float32
