"""Predictions of one checkpoint after another in one graph and session.

The graph and the session of a small model take seconds to build, its predictions far less.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.features.record_files import ExampleFile
from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.utils.interruption import stop_requests
from funnel_tf.data.input_pipeline import (
    InputConfig,
    finetune_input_fn,
    num_batches,
    report_corrupt_records,
)
from funnel_tf.models.initial_model import check_complete
from funnel_tf.training.estimator import (
    BuildGraph,
    InputFn,
    RunSettings,
    build_estimator,
    make_model_fn,
)
from funnel_tf.training.hooks import CheckpointCheckHook


class Predictions:
    """Predicts the examples of record files; keeps the last graph and session.

    Only one: TensorFlow's default graphs are a stack, which sessions that alternate would break.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._predictor: Predictor | None = None

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def predict(
        self, run: RunSettings, build_graph: BuildGraph, file: ExampleFile, checkpoint: Path
    ) -> dict[str, np.ndarray]:
        """Return the predictions of a checkpoint for the real examples of a file, in their order.

        The graph is the same in all calls with one file.
        """
        stop_requests.check()
        if self._predictor is None or self._path != file.path or run.use_tpu:
            self.close()
            estimator = build_estimator(run, make_model_fn(build_graph, run))
            source = [(str(file.path), file.num_examples)]
            input_fn = finetune_input_fn(source, file.schema, InputConfig(is_training=False))
            count = num_batches(file.num_examples, run.predict_batch_size)
            self._path, self._predictor = file.path, Predictor(estimator, input_fn, count)
        with report_corrupt_records([str(file.path)], file.schema, [file.num_examples]):
            found = self._predictor.predict(checkpoint)
        return {name: values[: file.num_real_examples] for name, values in found.items()}

    def close(self) -> None:
        """End the session."""
        if self._predictor is not None:
            self._predictor.close()
        self._predictor = None


class _RestoreHook(tf.train.SessionRunHook):
    """Restores a checkpoint before the next batch, if one is set."""

    def __init__(self) -> None:
        self.checkpoint: Path | None = None
        self.variables: list[tf.Variable] = []
        self._saver: tf.train.Saver | None = None

    def begin(self) -> None:
        """Add the operations to the graph, which is complete."""
        self.variables, self._saver = tf.global_variables(), tf.train.Saver()

    def before_run(self, run_context: Any) -> None:
        """Restore the checkpoint."""
        if self.checkpoint is not None and self._saver is not None:
            self._saver.restore(run_context.session, str(self.checkpoint))
            self.checkpoint = None


class Predictor:
    """Predicts all examples of an input with any number of checkpoints of one graph.

    Args:
        estimator: a TPUEstimator. On a TPU only the first checkpoint is predicted with.
        input_fn: input in a fixed order.
        num_batches: batches of the input.
    """

    def __init__(self, estimator: Any, input_fn: InputFn, num_batches: int) -> None:
        self._estimator, self._input_fn, self._num_batches = estimator, input_fn, num_batches
        self._hook = _RestoreHook()
        self._batches: Iterator[dict[str, np.ndarray]] | None = None

    def predict(self, checkpoint: Path) -> dict[str, np.ndarray]:
        """Return [n, ...] arrays in the order of the input.

        Raises:
            CheckpointError: the checkpoint does not fit the graph.
        """
        if self._batches is None:
            self._batches = self._estimator.predict(
                self._repeat,
                hooks=[CheckpointCheckHook(checkpoint), self._hook],
                checkpoint_path=str(checkpoint),
                yield_single_examples=False,
            )
        else:
            check_complete(TFCheckpoint(checkpoint), self._hook.variables)
            self._hook.checkpoint = checkpoint
        try:
            parts = [next(self._batches) for _ in range(self._num_batches)]
        except BaseException:
            self._batches = None  # a generator that has raised is finished
            raise
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """End the session."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]
            self._batches = None

    def _repeat(self, params: Any) -> tf.data.Dataset:
        return self._input_fn(params).repeat()
