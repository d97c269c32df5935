"""Training, evaluation and prediction with TPUEstimator, for the graph and the input of any task.

With ``use_tpu`` False the same code runs on one CPU or GPU, or on several devices through
``MirroredStrategy``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from funnel.inference.collect import AppendedArrays
from funnel.utils.errors import ConfigError, RunError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.logging import RunLog
from funnel_tf.compat import tf
from funnel_tf.models.initial_model import InitConfig, init_from_checkpoint
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import variable_name
from funnel_tf.training.freezing import trained_variables
from funnel_tf.training.hooks import CheckpointCheckHook, LoggingHook, build_host_call
from funnel_tf.training.optimizer import SKIPPED_STEPS, TrainOp, create_train_op, replica_mean
from funnel_tf.training.run_directory import latest_step
from funnel_tf.training.saving import DeferStopsHook, SaveHook, read_log_state
from funnel_tf.training.settings import RunSettings, TpuAddress, TrainConfig

logger = logging.getLogger(__name__)

__all__ = [
    "BuildGraph",
    "Features",
    "Graph",
    "InputFn",
    "RunSettings",
    "TpuAddress",
    "TrainConfig",
    "build_estimator",
    "evaluate_graph",
    "make_model_fn",
    "predict_all",
    "train",
    "training_devices",
]

Features = dict[str, tf.Tensor]
InputFn = Callable[[dict[str, Any]], tf.data.Dataset]


class Graph(NamedTuple):
    """Outputs of a task's graph for one batch.

    Attributes:
        loss: mean over the real examples, scalar; None in prediction.
        predictions: [B, ...] each.
        metrics: numerator and denominator, scalars that are summed over batches, then divided.
        scalars: additional scalars to log in training.
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
    """Make the ``model_fn`` of a TPUEstimator.

    Args:
        build_graph: function of the features of a batch, the options and the mode.
        settings: settings of the run.
        train: optimizer settings; required for training only.
        init: initial weights, not used if ``model_dir`` has a checkpoint.
        log: destination of training metrics. None writes summaries through the host call, the
            only way to log on a TPU.
    """

    # Under a strategy AutoGraph would convert the code first, which takes seconds. Its wrapper
    # hides the argument names from TPUEstimator, hence the second function.
    @tf.autograph.experimental.do_not_convert
    def build_spec(features: Features, mode: str) -> Any:
        is_training = mode == tf.estimator.ModeKeys.TRAIN
        options = GraphOptions(is_training, settings.use_tpu, settings.use_bfloat16)
        graph = build_graph(features, options, mode)
        if is_training:
            return _training_spec(graph, settings, train, init, log)
        if mode == tf.estimator.ModeKeys.EVAL:
            metrics = _build_eval_metrics(graph.metrics or {})
            return tf.estimator.tpu.TPUEstimatorSpec(mode, loss=graph.loss, eval_metrics=metrics)
        return tf.estimator.tpu.TPUEstimatorSpec(mode, predictions=dict(graph.predictions or {}))

    def model_fn(features: Features, labels: Any, mode: str, params: Any) -> Any:
        return build_spec(features, mode)

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
    # The optimizer's variables exist only after its operation is built.
    is_new = init is not None and init.checkpoint and latest_step(settings.model_dir) == 0
    if is_new and not init.with_optimizer:
        init_from_checkpoint(init.checkpoint, tf.trainable_variables(), init.random_decoder)
    op = create_train_op(
        graph.loss,
        train.optimizer,
        train.schedule,
        use_tpu=settings.use_tpu,
        per_core_clip=train.per_core_clip,
        skip_nan_grad=train.skip_nan_grad,
        variables=trained_variables(tf.trainable_variables(), train.freeze),
    )
    if is_new and init.with_optimizer:
        # A new run counts its skipped steps from 0.
        variables = [v for v in tf.global_variables() if variable_name(v) != SKIPPED_STEPS]
        init_from_checkpoint(init.checkpoint, variables)
    scalars = _training_scalars(graph, op, train, settings)
    loss = graph.loss
    if train.skip_nan_grad:
        # The estimator's NaN guard would end the run at the step that is to be skipped.
        loss = tf.where(tf.is_finite(loss), loss, tf.zeros_like(loss))
    common = {"mode": tf.estimator.ModeKeys.TRAIN, "loss": loss, "train_op": op.train_op}
    if log is None:
        call = build_host_call(op.step, scalars, settings.model_dir, settings.log_freq)
        saving = _save_hook(settings)
        return tf.estimator.tpu.TPUEstimatorSpec(**common, host_call=call, training_hooks=[saving])
    hook = LoggingHook(
        scalars,
        log,
        every=settings.log_freq,
        total_steps=settings.train_steps,
        examples=settings.train_batch_size,
    )
    hook.load(read_log_state(settings.model_dir))
    # The log comes first: a checkpoint implies that the lines up to its step are written.
    hooks = [hook, _save_hook(settings, hook)]
    return tf.estimator.tpu.TPUEstimatorSpec(**common, training_hooks=hooks)


def _save_hook(settings: RunSettings, log: LoggingHook | None = None) -> SaveHook:
    return SaveHook(
        settings.model_dir,
        every=settings.save_steps,
        total_steps=settings.train_steps,
        minutes=settings.save_minutes,
        log_state=dict if log is None else log.state,
    )


def _training_scalars(
    graph: Graph, op: TrainOp, train: TrainConfig, settings: RunSettings
) -> dict[str, tf.Tensor]:
    """Collect the scalars to log; those that differ between replicas are averaged."""
    scalars = {"loss": graph.loss, **(graph.scalars or {}), "grad_norm": op.gradient_norm}
    names = list(scalars)
    if not settings.use_tpu:
        scalars = dict(zip(names, replica_mean([scalars[n] for n in names]), strict=True))
    scalars["lr"] = op.learning_rate
    return scalars | ({"skipped": op.skipped} if train.skip_nan_grad else {})


def _build_eval_metrics(metrics: Mapping[str, tuple[tf.Tensor, tf.Tensor]]) -> tuple[Any, Any]:
    """Build the pair ``eval_metrics`` of a TPUEstimatorSpec: a function, and its arguments.

    The tensors leave the TPU with shape [1] per core, and the function runs on the host.
    """
    tensors = {}
    for name, (numerator, denominator) in metrics.items():
        tensors[f"{name}/numerator"] = tf.reshape(numerator, [1])
        tensors[f"{name}/denominator"] = tf.reshape(denominator, [1])
    return partial(_compute_eval_metrics, tuple(metrics)), tensors


def _compute_eval_metrics(
    names: Sequence[str], **sums: tf.Tensor
) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Accumulate ratios over batches: the mean of a / b weighted by b is sum(a) / sum(b)."""
    result = {}
    for name in names:
        weights = sums[f"{name}/denominator"]
        values = tf.math.divide_no_nan(sums[f"{name}/numerator"], weights)
        result[name] = tf.metrics.mean(values, weights)
    return result


def training_devices(settings: RunSettings) -> list[str]:
    """Return the devices for training without a TPU: GPUs, else (logical) CPUs.

    Raises:
        ConfigError: the batch size is not a multiple of their number.
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


# Beginnings of TensorFlow's errors on a machine without TPU, or without the package to ask for one.
_NO_TPU = ("Cannot find any TPU cores", "Missing runtime dependency on the Google API client")
# With one core TPUEstimator does not look for it, and the graph meets a processor instead.
_NO_TPU_KERNEL = "No OpKernel was registered to support Op 'TPU"
_OTHER_CORES = re.compile(r"num_shards is not set correctly.*should be \((\d+)\), got \((\d+)\)")


@contextmanager
def _explain_tpu() -> Iterator[None]:
    """Raise a ConfigError where TensorFlow finds no TPU, or another one; also a decorator."""
    try:
        yield
    except ValueError as error:
        found = _OTHER_CORES.search(str(error))
        if not found:
            raise
        raise ConfigError(
            f"--num_hosts times --num_core_per_host (CORES in the scripts) is {found[2]}, but the "
            f"TPU has {found[1]} cores"
        ) from None
    except (RuntimeError, tf.errors.InvalidArgumentError) as error:
        if str(error).startswith(_NO_TPU):
            reason = str(error).partition(" Available devices")[0].rstrip(". ")
        elif _NO_TPU_KERNEL in str(error):
            reason = f"{_NO_TPU_KERNEL}...': this machine has no TPU"
        else:
            raise
        raise ConfigError(
            f"--use_tpu=True: TensorFlow says: {reason}; --tpu=local is the TPU of this machine, "
            "--use_tpu=False runs on CPU or GPU"
        ) from None


@_explain_tpu()
def build_estimator(settings: RunSettings, model_fn: ModelFn) -> Any:
    """Build the TPUEstimator of a run.

    Its input functions receive ``params["batch_size"]``: the batch size of one host of a TPU, or
    of one device otherwise.

    Raises:
        ConfigError: the settings do not fit the available devices.
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


def _mirrored(devices: list[str]) -> tf.distribute.Strategy:
    on_gpus = any("GPU" in name for name in devices)
    # The default cross-device operations hang between logical CPUs.
    sums = None if on_gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)


@_explain_tpu()
def train(
    estimator: Any, input_fn: InputFn, settings: RunSettings, until: int | None = None
) -> int:
    """Train from the last checkpoint in ``model_dir`` to ``train_steps``; return the last step.

    ``until`` ends this call at an earlier step, one that is saved.

    Raises:
        RunError: the loss became NaN.
        Interrupted: a stop signal arrived; a checkpoint of the current step was written. Not raised
            after the last step.
    """
    step, last = latest_step(settings.model_dir), until or settings.train_steps
    if step >= last:
        logger.info("%s: training is finished at step %d", settings.model_dir, step)
        return step
    if step:
        logger.info("%s: training continues at step %d", settings.model_dir, step)
    deferral = DeferStopsHook()
    try:
        estimator.train(input_fn, hooks=[deferral], max_steps=last)
    except tf.train.NanLossDuringTrainingError:
        raise RunError(
            f"{settings.model_dir}: the loss is NaN after step {latest_step(settings.model_dir)}, "
            "the last checkpoint; try a lower --learning_rate, or --skip_nan_grad"
        ) from None
    finally:
        deferral.close()
    step = latest_step(settings.model_dir)
    if stop_requests.received is not None and step < last:
        raise Interrupted(
            f"stopped by {stop_requests.received} after step {step}/{settings.train_steps}, which "
            f"is saved in {settings.model_dir}; the same command resumes there"
        )
    return step


@_explain_tpu()
def predict_all(estimator: Any, input_fn: InputFn, checkpoint: str | Path) -> dict[str, np.ndarray]:
    """Predict all examples of ``input_fn``; return [n, ...] arrays in the order of the input."""
    batches = estimator.predict(
        input_fn,
        hooks=[CheckpointCheckHook(checkpoint)],
        checkpoint_path=str(checkpoint),
        yield_single_examples=False,
    )
    found = AppendedArrays()
    for part in batches:
        found.append(part)
    return found.arrays()


@_explain_tpu()
def evaluate_graph(
    estimator: Any, input_fn: InputFn, checkpoint: str | Path, num_batches: int
) -> dict[str, float]:
    """Compute the graph's metrics over ``num_batches`` batches."""
    hooks, prefix = [CheckpointCheckHook(checkpoint)], str(checkpoint)
    result = estimator.evaluate(input_fn, steps=num_batches, hooks=hooks, checkpoint_path=prefix)
    return {
        name: float(value) for name, value in result.items() if name not in ("loss", "global_step")
    }
