"""Run TensorFlow graphs with given weights, for comparison with the PyTorch backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.variables import assign_tensors
from funnel_torch.models.electra import PretrainingBatch
from parity_cases import Batch

tf.logging.set_verbosity(tf.logging.ERROR)

PRETRAINING_FEATURES = (
    *("masked_input", "origin_input", "token_type_ids", "attention_mask", "mlm_attention_mask"),
    *("target", "target_positions", "target_mask"),
)

# For graphs that run once: optimizing one takes longer than running it.
ONE_RUN = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
ONE_RUN.graph_options.rewrite_options.disable_meta_optimizer = True


class Computed(NamedTuple):
    """Outputs of a graph as PyTorch tensors in the structure of the graph's outputs."""

    outputs: dict[str, Any]
    gradients: dict[str, torch.Tensor]


def compute(build, tensors, gradients_of="loss"):
    """Run the dictionary of outputs that ``build()`` returns, with ``tensors`` as the weights.

    ``gradients_of`` names the output whose gradients by all variables are computed (0 if it does
    not depend on one); None computes no gradients.
    """
    with tf.Graph().as_default(), tf.Session(config=ONE_RUN) as session:
        outputs, gradients = build(), {}
        if gradients_of is not None:
            gradients = variable_gradients(outputs[gradients_of])
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        report = assign_tensors(session, arrays)
        assert not report.missing + report.unexpected + report.mismatched, report
        outputs, gradients = session.run((outputs, gradients))
    if gradients_of is not None:
        zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
        gradients = zeros | gradients
    return Computed(*tf.nest.map_structure(_tensor, (outputs, gradients)))


def variable_gradients(loss):
    """Return the gradient by every variable on which ``loss`` depends, by name; all are dense."""
    variables = tf.trainable_variables()
    pairs = zip(variables, tf.gradients(loss, variables), strict=True)
    found = {variable.op.name: gradient for variable, gradient in pairs if gradient is not None}
    assert all(isinstance(gradient, tf.Tensor) for gradient in found.values()), "not dense"
    return found


def make_inputs(batch: Batch) -> ModelInputs:
    """Return a batch as TensorFlow constants."""
    mask = None if batch.attention_mask is None else batch.attention_mask.numpy()
    types = None if batch.token_type_ids is None else batch.token_type_ids.numpy()
    return ModelInputs(
        tf.constant(batch.input_ids.numpy(), tf.int32),
        None if mask is None else tf.constant(mask, tf.float32),
        None if types is None else tf.constant(types, tf.int32),
    )


def make_features(batch: PretrainingBatch) -> dict[str, np.ndarray]:
    """Return the fields of a pretraining batch in the types of the TensorFlow input pipeline."""
    arrays = {name: getattr(batch, name).numpy() for name in PRETRAINING_FEATURES}
    return {
        name: array.astype(np.float32 if array.dtype == bool else np.int32)
        for name, array in arrays.items()
    }


def random_batch(length: int, vocab: int, size: int = 3, plain: bool = False) -> Batch:
    """Return ids with padding (none in the first row) and segments; only ids if ``plain``."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(vocab, (size, length), generator=generator)
    if plain:
        return Batch(ids, None, None)
    types = torch.randint(2, (size, length), generator=generator)
    types[:, 0] = 2
    real = torch.randint(1, length + 1, (size, 1), generator=generator)
    real[0] = length
    return Batch(ids, (torch.arange(length)[None] < real).long(), types)


def _tensor(value):
    return torch.from_numpy(np.array(value))
