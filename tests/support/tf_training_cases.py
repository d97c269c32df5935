"""A toy regression for TPUEstimator, shared by the tests of training."""

from __future__ import annotations

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

import numpy as np

from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel_tf.training.estimator import Graph, RunSettings, TrainConfig

EXAMPLES, WIDTH = 64, 3


class Recorder:
    """A log that keeps its rows in memory."""

    def __init__(self):
        self.rows = []

    def log(self, step, split, **scalars):
        self.rows.append({"step": step, "split": split, **scalars})

    def close(self):
        """Close nothing."""


def toy_graph(features, options, mode):
    """Build a least-squares graph; weight and layer decay apply to its variable names."""
    with tf.variable_scope("model/encoder/layer_0", reuse=tf.AUTO_REUSE, use_resource=True):
        kernel = tf.get_variable("kernel", [WIDTH], initializer=tf.ones_initializer())
        bias = tf.get_variable("bias", [], initializer=tf.zeros_initializer())
    found = tf.linalg.matvec(features["x"], kernel) + bias
    losses = tf.square(found - features["y"])
    size = tf.cast(tf.size(losses), tf.float32)
    metrics = {"mse": (tf.reduce_sum(losses), size)}
    return Graph(tf.reduce_mean(losses), {"found": found}, metrics, {"bias": bias})


def toy_data():
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, WIDTH)).astype("f")
    return {"x": x, "y": (x @ np.array([2.0, -1.0, 0.5]) + 0.3).astype("f")}


def toy_input(start_step=0, step_examples=16, repeat=True, broken=False):
    """Return batches in a fixed order; ``broken`` puts a NaN into those of the third step."""
    data = toy_data()
    if broken:
        data["y"][2 * step_examples] = np.nan

    def input_fn(params):
        examples = tf.data.Dataset.from_tensor_slices(data)
        examples = examples.repeat() if repeat else examples
        examples = examples.skip(start_step * step_examples)
        return examples.batch(params["batch_size"], drop_remainder=repeat)

    return input_fn


def toy_settings(model_dir, **changes):
    return RunSettings(
        str(model_dir),
        **{"train_steps": 8, "train_batch_size": 16, "log_freq": 1, "save_steps": 4, **changes},
    )


def toy_training(**changes):
    optimizer = OptimizerConfig("funnel_adamw", weight_decay=0.1, clip=1.0)
    return TrainConfig(optimizer, ScheduleConfig(0.05, 8, 2), **changes)
