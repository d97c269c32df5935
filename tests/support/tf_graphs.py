"""Graphs of the TensorFlow tree with given weights, for comparison with the PyTorch tree."""

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

# Graphs that run once: optimising one would take longer than running it.
ONE_RUN = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
ONE_RUN.graph_options.rewrite_options.disable_meta_optimizer = True


class Computed(NamedTuple):
    """Outputs of a graph as tensors of torch, in the structure that the graph has them in."""

    outputs: dict[str, Any]
    gradients: dict[str, torch.Tensor]


def compute(build, tensors, gradients_of="loss"):
    """Run what ``build()`` makes, a dictionary, with exactly ``tensors`` as its weights.

    ``gradients_of`` names the output to differentiate by all variables (zero where it does not
    depend on one); None computes no gradients.
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
    """The gradient of ``loss`` by every variable that it depends on, by name; all are dense."""
    variables = tf.trainable_variables()
    pairs = zip(variables, tf.gradients(loss, variables), strict=True)
    found = {variable.op.name: gradient for variable, gradient in pairs if gradient is not None}
    assert all(isinstance(gradient, tf.Tensor) for gradient in found.values()), "not dense"
    return found


def inputs_of(batch: Batch) -> ModelInputs:
    """The constants of a batch; the mask says the opposite there."""
    mask = None if batch.attention_mask is None else 1.0 - batch.attention_mask.numpy()
    types = None if batch.token_type_ids is None else batch.token_type_ids.numpy()
    return ModelInputs(
        tf.constant(batch.input_ids.numpy(), tf.int32),
        None if mask is None else tf.constant(mask, tf.float32),
        None if types is None else tf.constant(types, tf.int32),
    )


def arrays_of(batch: PretrainingBatch) -> dict[str, np.ndarray]:
    """A pretraining batch under the names and in the types of the TensorFlow input pipeline."""
    ids = ("masked_input", "origin_input", "target", "target_positions")
    masks = {
        "target_mask": batch.target_mask,
        "input_mask": ~batch.mlm_attention_mask,
        "pad_mask": ~batch.attention_mask,
    }
    return {
        **{name: getattr(batch, name).numpy().astype(np.int32) for name in ids},
        "seg_id": batch.token_type_ids.numpy().astype(np.int32),
        **{name: mask.numpy().astype(np.float32) for name, mask in masks.items()},
    }


def random_batch(length: int, vocab: int, size: int = 3, plain: bool = False) -> Batch:
    """Ids with padding (none in the first row) and segments, or (``plain``) ids alone."""
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
