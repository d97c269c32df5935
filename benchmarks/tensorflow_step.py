"""Time a TensorFlow pretraining step, and the input pipeline that feeds it.

Masked language modelling with the sizes below, compared with the same graph in which the product of
hidden states and vocabulary is an einsum, as in the original code. The gradient of the einsum
materializes a matrix [vocabulary, width] per sequence; ours is a product of two matrices. The ratio
grows with the vocabulary, which must be stated with it.

    python benchmarks/tensorflow_step.py --vocab_size=30522 --batch_size=16
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import _paths  # noqa: F401

import numpy as np
import tensorflow.compat.v1 as tf

from funnel import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel.pretraining.masking import Masker, MaskingConfig, truncation_stride
from funnel.utils.main import run_main
from funnel_tf.cli.start import silence_tensorflow
from funnel_tf.data.input_pipeline import InputConfig, pretrain_input_fn
from funnel_tf.models import electra as pretraining
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.optimizer import create_train_op
from harness import corpora, timing

OURS, EINSUM, INPUT = "ours", "vocabulary product as an einsum", "input on one core"
COLUMNS = {
    "label": "step", "ms": "ms", "rate": "examples/s", "ratio_to_einsum": "time / einsum",
    "feeds": "feeds ours x",
}  # fmt: skip
TARGETS_PER_TOKEN = 0.15
STEPS = 10**6


def model_config(args: argparse.Namespace) -> ModelConfig:
    """Return a small model; by default three blocks of two layers and a decoder of two."""
    return ModelConfig(
        vocab_size=args.vocab_size, d_model=128, d_embed=128, n_head=2, d_head=64, d_inner=512,
        block_size=args.block_size, decoder_size=args.decoder_size,
    )  # fmt: skip


def targets(args: argparse.Namespace) -> int:
    """Return the number of predicted positions per record."""
    return max(1, round(TARGETS_PER_TOKEN * args.seq_len))


def random_batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return a batch of random tokens in the form of the input pipeline."""
    random, shape = np.random.default_rng(0), (args.batch_size, args.seq_len)
    slots = (args.batch_size, targets(args))
    ids = random.integers(5, args.vocab_size, shape).astype(np.int32)
    return {
        "masked_input": ids,
        "origin_input": ids,
        "token_type_ids": np.zeros(shape, np.int32),
        "target": random.integers(5, args.vocab_size, slots).astype(np.int32),
        "target_positions": random.integers(1, args.seq_len, slots).astype(np.int32),
        "target_mask": np.ones(slots, np.float32),
        "attention_mask": np.ones(shape, np.float32),
        "mlm_attention_mask": np.ones(shape, np.float32),
    }


def einsum_logits(hidden: tf.Tensor, *arguments: Any) -> tf.Tensor:
    """Compute the vocabulary logits with an einsum over sequences as the last product."""
    matmul, batch = tf.matmul, hidden.shape[0]

    def product(flat: tf.Tensor, matrix: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
        if not transpose_b:  # the projection before it
            return matmul(flat, matrix)
        rows = tf.reshape(flat, [batch, -1, flat.shape[-1]])
        return tf.reshape(tf.einsum("...d,nd->...n", rows, matrix), [-1, matrix.shape[0]])

    with mock.patch.object(tf, "matmul", product):
        return _OUR_LOGITS(hidden, *arguments)


_OUR_LOGITS = pretraining.masked_lm_logits


def training_step(
    args: argparse.Namespace, logits: Callable[..., tf.Tensor]
) -> Callable[[], object]:
    """Return a callable for a training step in its own graph and session."""
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        batch = {name: tf.constant(array) for name, array in random_batch(args).items()}
        with mock.patch.object(pretraining, "masked_lm_logits", logits):
            output = pretraining.mlm_graph(
                model_config(args), batch, GraphOptions(is_training=True)
            )
        schedule = ScheduleConfig(lr=1e-5, total_steps=STEPS)
        step = create_train_op(output.loss, OptimizerConfig(), schedule).train_op
        session = tf.Session(config=_threads(args.threads))
        session.run(tf.global_variables_initializer())
    return lambda: session.run(step)


def input_step(args: argparse.Namespace, folder: Path) -> Callable[[], object]:
    """Return a callable for the next batch of the input pipeline, on one core."""
    data, config = corpora.find_data(args.data_dir), model_config(args)
    size = int(1e6 * args.megabytes)
    records, tokenizer = corpora.write_records(data, args.vocab_size, args.seq_len, size, folder)
    masking = MaskingConfig(args.seq_len, targets(args), truncate_stride=truncation_stride(config))
    masker = Masker(masking, tokenizer.special, tokenizer.vocab_size)
    with tf.Graph().as_default():
        input_fn = pretrain_input_fn(records, masker, InputConfig(is_training=True))
        batches = input_fn({"batch_size": args.batch_size})
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        following = tf.data.make_one_shot_iterator(batches.with_options(options)).get_next()
        session = tf.Session(config=_threads(1))
    return lambda: [session.run(following) for _ in range(args.batches)]


def _threads(count: int) -> tf.ConfigProto:
    return tf.ConfigProto(intra_op_parallelism_threads=count, inter_op_parallelism_threads=count)


def measure(args: argparse.Namespace, folder: Path) -> list[timing.Row]:
    """Return one row per graph, and one for the input pipeline."""
    cases = {
        OURS: training_step(args, _OUR_LOGITS),
        EINSUM: training_step(args, einsum_logits),
        INPUT: input_step(args, folder),
    }
    seconds = timing.interleave(cases, args.repeats, clock=args.clock)
    calls = {OURS: 1, EINSUM: 1, INPUT: args.batches}
    rows = []
    for name, taken in seconds.items():
        each = statistics.median(taken) / calls[name]
        rate = args.batch_size / each
        rows.append({"label": name, "ms": 1e3 * each, "rate": rate, "calls": calls[name],
                     "seconds": taken})  # fmt: skip
    for row in rows[:2]:
        row["ratio_to_einsum"] = timing.median_ratio(row["seconds"], seconds[EINSUM])
    rows[2]["feeds"] = calls[INPUT] * timing.median_ratio(seconds[OURS], seconds[INPUT])
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.set_defaults(threads=os.cpu_count())
    parser.add_argument("--vocab_size", type=int, default=30522)
    parser.add_argument("--block_size", default="2_2_2")
    parser.add_argument("--decoder_size", default="2")
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=50, help="batches read per round")
    parser.add_argument("--megabytes", type=float, default=4.0, help="size of the text")
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    if args.quick:
        args.vocab_size, args.seq_len, args.batch_size, args.batches = 500, 32, 2, 2
        args.block_size, args.decoder_size = "1_1", "1"
        args.megabytes, args.repeats, args.threads = 0.05, 1, 1
    return args


def main() -> None:
    args = parse_arguments()
    tf.disable_eager_execution()
    silence_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    names = ("vocab_size", "block_size", "decoder_size", "seq_len", "batch_size", "threads",
             "repeats", "quick", "clock")  # fmt: skip
    chosen = {name: getattr(args, name) for name in names}
    print(timing.write_result("tensorflow_step", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
