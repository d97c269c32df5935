"""One TPUEstimator for every program: a program brings its graph, its input and its scores.

Off TPUs (``use_tpu`` False) the same code runs on one CPU or GPU, or on several devices through
``MirroredStrategy``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.config.optimizer import OptimizerConfig, ScheduleConfig
from funnel.utils.errors import ConfigError, RunError
from funnel.utils.logging import RunLog
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.initial_model import FitHook, InitConfig, init_from_checkpoint
from funnel_tf.training.optimizer import TrainOp, create_train_op, replica_mean
from funnel_tf.training.run_directory import latest_step
from funnel_tf.training.train_log import TrainLogHook, summary_host_call

logger = logging.getLogger(__name__)

Features = dict[str, tf.Tensor]
InputFn = Callable[[dict[str, Any]], tf.data.Dataset]


@dataclass(frozen=True)
class TpuAddress:
    """Where a TPU is; all None or empty off TPUs. On a TPU VM ``name`` is ``local``."""

    name: str | None = None
    zone: str | None = None
    project: str | None = None
    job_name: str | None = None
    master: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """How a run is carried out; batch sizes are global, intervals in steps.

    ``save_steps`` None keeps the last step only; ``max_save`` 0 keeps all checkpoints. Off TPUs
    ``num_core_per_host`` is the most devices training may use, each with its share of the batch.
    ``iterations`` steps run on a TPU between two looks of the host.
    """

    model_dir: str
    train_steps: int = 0
    train_batch_size: int = 1
    eval_batch_size: int = 8
    predict_batch_size: int = 8
    save_steps: int | None = None
    max_save: int = 0
    iterations: int = 1000
    log_freq: int = 100
    seed: int = 0
    use_tpu: bool = False
    use_bfloat16: bool = False
    num_hosts: int = 1
    num_core_per_host: int = 1
    address: TpuAddress = field(default_factory=TpuAddress)

    def __post_init__(self) -> None:
        for key in ("train_batch_size", "eval_batch_size", "predict_batch_size", "num_hosts"):
            if getattr(self, key) < 1:
                raise ConfigError(f"--{key}={getattr(self, key)}: must be at least 1")
        if self.save_steps is not None and self.save_steps < 1:
            raise ConfigError(f"--save_steps={self.save_steps}: must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """How a model learns; see :func:`funnel_tf.training.optimizer.create_train_op`."""

    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    per_core_clip: bool = True
    skip_nan_grad: bool = False


class Graph(NamedTuple):
    """What a program's graph computes for one batch.

    ``loss``: scalar mean over the real examples, None in prediction. ``predictions``: [B, ...]
    each. ``metrics``: numerator and denominator, scalars, summed over batches before they are
    divided. ``scalars``: more to log while training.
    """

    loss: tf.Tensor | None = None
    predictions: Mapping[str, tf.Tensor] | None = None
    metrics: Mapping[str, tuple[tf.Tensor, tf.Tensor]] | None = None
    scalars: Mapping[str, tf.Tensor] | None = None


BuildGraph = Callable[[Features, GraphOptions, str], Graph]
ModelFn = Callable[..., Any]


def make_model_fn(
    build_graph: BuildGraph,
    settings: RunSettings,
    train: TrainConfig | None = None,
    init: InitConfig | None = None,
    log: RunLog | None = None,
) -> ModelFn:
    """The model function of a TPUEstimator.

    ``build_graph`` gets the features of a batch, the options and the mode. ``train`` is needed for
    training only. ``init`` is read unless ``model_dir`` has a checkpoint already. ``log`` None
    writes summaries through the host call, as a TPU has to.
    """

    # A strategy would translate our Python first, which takes seconds and changes nothing.
    @tf.autograph.experimental.do_not_convert
    def spec(features: Features, mode: str) -> Any:
        is_training = mode == tf.estimator.ModeKeys.TRAIN
        options = GraphOptions(is_training, settings.use_tpu, settings.use_bfloat16)
        graph = build_graph(features, options, mode)
        if is_training:
            return _training_spec(graph, settings, train, init, log)
        if mode == tf.estimator.ModeKeys.EVAL:
            metrics = _metric_sums(graph.metrics or {})
            return tf.estimator.tpu.TPUEstimatorSpec(mode, loss=graph.loss, eval_metrics=metrics)
        return tf.estimator.tpu.TPUEstimatorSpec(mode, predictions=dict(graph.predictions or {}))

    def model_fn(features: Features, labels: Any, mode: str, params: Any) -> Any:
        return spec(features, mode)

    return model_fn


def _training_spec(
    graph: Graph,
    settings: RunSettings,
    train: TrainConfig | None,
    init: InitConfig | None,
    log: RunLog | None,
) -> Any:
    if train is None or graph.loss is None:
        raise ValueError("training needs a TrainConfig and a loss")
    begins = init is not None and init.checkpoint and latest_step(settings.model_dir) == 0
    if begins and not init.with_optimizer:
        init_from_checkpoint(init)
    op = create_train_op(
        graph.loss,
        train.optimizer,
        train.schedule,
        use_tpu=settings.use_tpu,
        per_core_clip=train.per_core_clip,
        skip_nan_grad=train.skip_nan_grad,
    )
    if begins and init.with_optimizer:
        init_from_checkpoint(init)
    scalars = _training_scalars(graph, op, train, settings)
    loss = graph.loss
    if train.skip_nan_grad:
        # The estimator's own guard would end the run at the very step that is to be skipped.
        loss = tf.where(tf.is_finite(loss), loss, tf.zeros_like(loss))
    common = {"mode": tf.estimator.ModeKeys.TRAIN, "loss": loss, "train_op": op.train_op}
    if log is None:
        call = summary_host_call(op.step, scalars, settings.model_dir, settings.log_freq)
        return tf.estimator.tpu.TPUEstimatorSpec(**common, host_call=call)
    hook = TrainLogHook(
        scalars,
        log,
        every=settings.log_freq,
        total_steps=settings.train_steps,
        examples=settings.train_batch_size,
    )
    return tf.estimator.tpu.TPUEstimatorSpec(**common, training_hooks=[hook])


def _training_scalars(
    graph: Graph, op: TrainOp, train: TrainConfig, settings: RunSettings
) -> dict[str, tf.Tensor]:
    scalars = {"loss": graph.loss, **(graph.scalars or {}), "grad_norm": op.gradient_norm}
    names = list(scalars)
    if not settings.use_tpu:
        scalars = dict(zip(names, replica_mean([scalars[n] for n in names]), strict=True))
    scalars["lr"] = op.learning_rate
    return scalars | ({"skipped": op.skipped} if train.skip_nan_grad else {})


def _metric_sums(metrics: Mapping[str, tuple[tf.Tensor, tf.Tensor]]) -> tuple[Any, Any]:
    """Metrics as TPUEstimator takes them: [1] per core, divided after the last batch."""
    tensors = {}
    for name, (numerator, denominator) in metrics.items():
        tensors[f"{name}/numerator"] = tf.reshape(numerator, [1])
        tensors[f"{name}/denominator"] = tf.reshape(denominator, [1])

    def metric_fn(**sums: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
        result = {}
        for name in metrics:
            weights = sums[f"{name}/denominator"]
            values = tf.math.divide_no_nan(sums[f"{name}/numerator"], weights)
            result[name] = tf.metrics.mean(values, weights)
        return result

    return metric_fn, tensors


def training_devices(settings: RunSettings) -> list[str]:
    """The devices that training is spread over off TPUs: GPUs, else (logical) CPUs.

    Raises:
        ConfigError: the batch cannot be divided among them.
    """
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = [device.name for device in found][: max(1, settings.num_core_per_host)]
    if settings.train_batch_size % len(names):
        raise ConfigError(
            f"--train_batch_size={settings.train_batch_size}: must be a multiple of the "
            f"{len(names)} devices"
        )
    if len(names) < settings.num_core_per_host:
        logger.info(
            "--num_core_per_host=%d: %d %s found, so training uses %s",
            *(settings.num_core_per_host, len(found), found[0].device_type, ", ".join(names)),
        )
    return names


def build_estimator(settings: RunSettings, model_fn: ModelFn) -> Any:
    """The TPUEstimator of a run.

    Its input functions get ``params["batch_size"]``: off TPUs that is the share of one device.

    Raises:
        ConfigError: the settings do not fit the devices there are.
    """
    tpu = tf.estimator.tpu
    batch_size, strategy, cluster, shards = settings.train_batch_size, None, None, None
    if settings.use_tpu:
        address, shards = settings.address, settings.num_hosts * settings.num_core_per_host
        if not (address.master or address.name):
            raise ConfigError(
                "--use_tpu=True: --tpu names one (on a TPU VM: --tpu=local), or --master its "
                "address; --use_tpu=False runs on CPU or GPU"
            )
        if not address.master:
            cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
                address.name, zone=address.zone, project=address.project
            )
    else:
        devices = training_devices(settings)
        batch_size //= len(devices)
        strategy = _mirrored(devices) if len(devices) > 1 else None
    config = tpu.RunConfig(
        cluster=cluster,
        master=settings.address.master if cluster is None else None,
        model_dir=settings.model_dir or None,
        tf_random_seed=settings.seed,
        save_checkpoints_steps=settings.save_steps or max(1, settings.train_steps),
        keep_checkpoint_max=settings.max_save,
        save_summary_steps=0,
        log_step_count_steps=None,
        train_distribute=strategy,
        session_config=tf.ConfigProto(allow_soft_placement=True),
        tpu_config=tpu.TPUConfig(
            iterations_per_loop=settings.iterations if settings.use_tpu else 1,
            num_shards=shards,
            tpu_job_name=settings.address.job_name,
            per_host_input_for_training=tpu.InputPipelineConfig.PER_HOST_V2,
        ),
    )
    return tpu.TPUEstimator(
        model_fn,
        config=config,
        use_tpu=settings.use_tpu,
        train_batch_size=batch_size,
        eval_batch_size=settings.eval_batch_size,
        predict_batch_size=settings.predict_batch_size,
    )


def _mirrored(devices: list[str]) -> Any:
    on_gpus = any("GPU" in name for name in devices)
    # The default way to sum hangs between logical CPUs.
    sums = None if on_gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)


def train(estimator: Any, input_fn: InputFn, settings: RunSettings) -> int:
    """Train up to ``settings.train_steps`` from where ``model_dir`` stands; returns the last step.

    Raises:
        RunError: the loss is no number any more.
    """
    step = latest_step(settings.model_dir)
    if step >= settings.train_steps:
        logger.info("%s: training is finished at step %d", settings.model_dir, step)
        return step
    if step:
        logger.info("%s: training goes on at step %d", settings.model_dir, step)
    try:
        estimator.train(input_fn, max_steps=settings.train_steps)
    except tf.train.NanLossDuringTrainingError:
        raise RunError(
            f"{settings.model_dir}: the loss is NaN after step {latest_step(settings.model_dir)}, "
            "the last checkpoint; try a lower --learning_rate, or --skip_nan_grad"
        ) from None
    return latest_step(settings.model_dir)


def predict_all(estimator: Any, input_fn: InputFn, checkpoint: str | Path) -> dict[str, np.ndarray]:
    """The graph's predictions for all examples of ``input_fn``, [n, ...] each, in their order."""
    batches = estimator.predict(
        input_fn,
        hooks=[FitHook(checkpoint)],
        checkpoint_path=str(checkpoint),
        yield_single_examples=False,
    )
    parts = list(batches)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate_graph(
    estimator: Any, input_fn: InputFn, checkpoint: str | Path, num_batches: int
) -> dict[str, float]:
    """The graph's metrics over ``num_batches`` batches: sums of numerators over denominators."""
    hooks, prefix = [FitHook(checkpoint)], str(checkpoint)
    result = estimator.evaluate(input_fn, steps=num_batches, hooks=hooks, checkpoint_path=prefix)
    return {
        name: float(value) for name, value in result.items() if name not in ("loss", "global_step")
    }
