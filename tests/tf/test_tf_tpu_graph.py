"""Graphs built with ``use_tpu=True``: static shapes, XLA operations, the same results under XLA.

These tests run without a TPU, and TensorFlow's CPU package has neither the TPU compiler nor its
table of kernels, so they cannot show that a graph compiles for a TPU. They check instead that every
operation inside ``tf.tpu.rewrite`` is in TensorFlow's registries of operations that XLA can compile
for both CPU and GPU (operations that two so different devices share use the lowering of XLA itself,
as a TPU does), that all shapes are static, and that the step compiled by XLA for a CPU has the
losses and gradients of the plain graph.
"""

import os

import numpy as np
import pytest

import program_server
from funnel.checkpoints.names import expected_shapes
from funnel.config.heads import PretrainingConfig
from funnel.config.model import ModelConfig
from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel_tf.models.electra import electra_graph, mlm_graph
from funnel_tf.models.heads import classification_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
from funnel_tf.models.variables import assign_tensors
from funnel_tf.training.optimizer import create_train_op

pytestmark = pytest.mark.slow

# Compiling takes half of the time without LLVM's optimizations, which are not tested here.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

VOCAB, LENGTH, SIZE, TARGETS = 23, 8, 2, 3
CONFIG = ModelConfig(
    vocab_size=VOCAB, d_model=16, d_embed=16, n_head=4, d_head=4, d_inner=16, block_size="1_1",
    decoder_size="1", rel_attn_type="factorized", dropout=0.1, dropatt=0.1, dropact=0.1,
)  # fmt: skip
STILL = CONFIG.replace(dropout=0.0, dropatt=0.0, dropact=0.0, decoder_size="0")
TPU = GraphOptions(is_training=True, use_tpu=True)
# Prints the operations that XLA can compile for both CPU and GPU.
REGISTRY = """
from tensorflow.python.util import pywrap_xla_ops as ops
print(*set(ops.get_cpu_kernel_names()) & set(ops.get_gpu_kernel_names()))
"""
# Operations that tf.tpu.rewrite adds.
FRAME = {"CrossReplicaSum", "TPUReplicateMetadata"}


def batch_arrays():
    """Return a masked batch, noise for ELECTRA's samples, and labels for the other heads."""
    random = np.random.default_rng(0)
    ids = random.integers(0, VOCAB, (SIZE, LENGTH)).astype(np.int32)
    pads = np.zeros((SIZE, LENGTH), np.float32)
    pads[1, 6:] = 1
    positions = np.array([[1, 3, 6], [2, 5, 0]], np.int32)
    segments = np.array([[2, 0, 0, 0, 1, 1, 1, 1]] * SIZE, np.int32)
    masked = ids.copy()
    masked[np.arange(SIZE)[:, None], positions] = 4
    return {
        "masked_input": masked, "origin_input": ids, "token_type_ids": segments,
        "target": np.take_along_axis(ids, positions, 1), "target_positions": positions,
        "target_mask": np.array([[1, 1, 1], [1, 1, 0]], np.float32),
        "mlm_attention_mask": ((pads == 0) & (masked != 4)).astype(np.float32),
        "attention_mask": 1 - pads,
        "noise": random.gumbel(size=(SIZE, TARGETS, VOCAB)).astype(np.float32),
        "label": np.array([1, 0], np.int32), "real": np.array([1, 0], np.float32),
    }  # fmt: skip


def _inputs(batch):
    return ModelInputs(batch["origin_input"], batch["attention_mask"], batch["token_type_ids"])


def electra(config, batch, options):
    pretraining = PretrainingConfig(width_shrink=0.5)
    return electra_graph(config, batch, options, pretraining, batch.get("noise")).loss


def mlm(config, batch, options):
    return mlm_graph(config, batch, options).loss


def classification(config, batch, options):
    rest = (batch["label"], batch["real"], options)
    return classification_head(config, _inputs(batch), *rest, num_labels=2).loss


def squad(config, batch, options):
    """Return the training loss, which includes the outputs of prediction with factor 0."""
    gold = {"start_positions": batch["label"], "end_positions": batch["label"] + 1}
    features = {"p_mask": 1 - batch["attention_mask"], "cls_index": batch["label"] * 0}
    targets = gold | {"is_impossible": batch["real"]}
    loss = squad_head(config, _inputs(batch), features | targets, options).loss
    beam = squad_head(config, _inputs(batch), features, options).predictions()
    return loss + 0.0 * sum(tf.reduce_sum(tf.cast(part, tf.float32)) for part in beam.values())


HEADS = {
    electra: ("discriminator", "generator"),
    mlm: ("mlm",),
    classification: ("summary", "classification"),
    squad: ("squad", "answer_class"),
}


def step(config, options, build, batch):
    """Return loss and gradients by all variables."""
    loss = build(config, batch, options)
    return [loss, *tf.gradients(loss, tf.trainable_variables())]


@pytest.mark.parametrize("build", HEADS, ids=lambda build: build.__name__)
def test_operations_and_shapes(build):
    """A complete training step in bfloat16, with dropout, sampling and the update."""
    options = GraphOptions(is_training=True, use_tpu=True, use_bfloat16=True)
    arrays = batch_arrays()
    del arrays["noise"]

    def train(*tensors):
        loss = build(CONFIG, dict(zip(arrays, tensors, strict=True)), options)
        schedule = ScheduleConfig(lr=1e-3, total_steps=9, warmup_steps=2)
        update = create_train_op(loss, OptimizerConfig(), schedule, use_tpu=True)
        with tf.control_dependencies([update.train_op]):
            return tf.identity(loss)

    with tf.Graph().as_default() as graph:
        tf.train.get_or_create_global_step()
        tf.tpu.rewrite(train, [tf.constant(array) for array in arrays.values()])
        assert {v.dtype.base_dtype for v in tf.trainable_variables()} == {tf.float32}
        inside = [op for op in graph.get_operations() if "_tpu_replicate" in op.node_def.attr]
    assert len(inside) > 1000
    # In another process: after a session has run, the list may be incomplete.
    listed = program_server.run(["-c", REGISTRY], backend="tensorflow")
    known = set(listed.stdout.split())
    assert len(known) > 300, listed.stderr
    assert {op.type for op in inside} - known - FRAME == set()
    unknown = [out.name for op in inside for out in op.outputs if not out.shape.is_fully_defined()]
    assert not unknown
    products = {op.inputs[0].dtype for op in inside if "MatMul" in op.type or op.type == "Einsum"}
    assert products == {tf.bfloat16}
    exact = {op.inputs[0].dtype for op in inside if op.type in ("Softmax", "Rsqrt", "Log")}
    assert exact == {tf.float32}


@pytest.mark.parametrize(
    ("build", "use_bfloat16"),
    [(electra, False), (squad, False), (classification, True)],
    ids=["electra", "squad", "classification_bfloat16"],
)
def test_results_compiled_by_xla(build, use_bfloat16):
    """They equal those of the plain TPU graph and of the CPU graph (gather, relative shift)."""
    options = GraphOptions(is_training=True, use_tpu=True, use_bfloat16=use_bfloat16)
    arrays, random = batch_arrays(), np.random.default_rng(1)
    generator = STILL.replace(d_model=8, d_inner=8, n_head=2)
    shapes = expected_shapes(STILL, heads=HEADS[build], generator=generator)
    tensors = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()}

    def function(*inputs):
        return step(STILL, options, build, dict(zip(arrays, inputs, strict=True)))

    # Optimizing the plain graphs takes longer than running them once.
    once = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    once.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), tf.Session(config=once) as session:
        placeholders = [tf.placeholder(a.dtype, a.shape) for a in arrays.values()]
        plain = function(*placeholders)
        compiled = tf.xla.experimental.compile(function, placeholders)
        batch = dict(zip(arrays, placeholders, strict=True))
        shifted = STILL.replace(rel_attn_type="rel_shift")
        elsewhere = step(shifted, GraphOptions(is_training=True), build, batch)
        report = assign_tensors(session, tensors)
        assert not report.missing + report.unexpected + report.mismatched
        feed = dict(zip(placeholders, arrays.values(), strict=True))
        results = session.run([plain, compiled, elsewhere], feed)
    tolerance = 0.1 if use_bfloat16 else 1e-5
    for ours, theirs, exact in zip(*results, strict=True):
        scale = tolerance * max(1.0, np.abs(exact).max())
        np.testing.assert_allclose(ours, exact, atol=scale)
        np.testing.assert_allclose(theirs, ours, atol=scale)
