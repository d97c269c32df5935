"""``tpu_compile.py``: what the TPU compiler says of a training step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import tensorflow.compat.v1 as tf

from funnel.config.heads import PretrainingConfig
from funnel.config.model import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel.features.record_schema import (
    RecordSchema,
    classifier_schema,
    race_schema,
    squad_schema,
)
from funnel.utils.files import atomic_write_text
from funnel_tf.cli.tpu.settings import TpuCompileSettings
from funnel_tf.models.electra import electra_graph, mlm_graph
from funnel_tf.models.heads import classification_head, race_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
from funnel_tf.training.functional_step import TrainingStep
from funnel_tf.training.tpu_compiler import (
    GIB,
    Chip,
    Compiled,
    LoweredStep,
    compile_step,
    lower_step,
    parse_topology,
)

Batch = Mapping[str, tf.Tensor]
# Names of the features after the input pipeline.
_RENAMED = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
_DAY = 86400
# Rows of the profile.
_OPERATIONS = 20


def run(settings: TpuCompileSettings) -> None:
    """Compile for every TPU, print a table of each, and write the JSON file after each."""
    names = settings.topology.split(",")
    targets = {name: parse_topology(name) for name in names}
    config = load_config(settings)

    @cache
    def lower(size: int) -> LoweredStep:
        return lower_step(make_step(settings, config, size))

    reports = []
    for name, (chip, devices) in targets.items():
        reports.append(compile_for(replace(settings, topology=name), chip, devices, lower))
        print(format_report(reports[-1]), flush=True)
        if settings.output:
            content = reports if len(names) > 1 else reports[0]
            atomic_write_text(Path(settings.output), json.dumps(content, indent=1) + "\n")


def compile_for(
    settings: TpuCompileSettings, chip: Chip, devices: int, lower: Callable[[int], LoweredStep]
) -> dict[str, Any]:
    """Return the report of a step on one TPU.

    Args:
        settings: what to compile.
        chip: the device.
        devices: number of them in the TPU.
        lower: returns the step for a batch size.
    """
    start, cpu = time.perf_counter(), time.process_time()

    def compile_batch(size: int) -> Compiled | None:
        found = compile_step(lower(size), chip, profile=settings.profile)
        return found if found is not None and found.memory <= chip.memory else None

    size = settings.batch_per_core
    if settings.find_batch:
        size, found = find_largest(compile_batch, size)
    else:
        found = compile_batch(size)
    return make_report(settings, size, devices, found) | {
        "memory_of_device": chip.memory,
        "compile_seconds": round(time.perf_counter() - start, 1),
        "compile_cpu_seconds": round(time.process_time() - cpu, 1),
    }


def load_config(settings: TpuCompileSettings) -> ModelConfig:
    """Return the model, with the requested attention.

    Raises:
        ConfigError: there is no such file or size.
    """
    return ModelConfig.load(settings.model_config).replace(rel_attn_type=settings.attn_type)


def make_step(settings: TpuCompileSettings, config: ModelConfig, batch_size: int) -> TrainingStep:
    """Return the training step of a program, as it runs on a TPU, for a batch of a core."""
    return TrainingStep(
        partial(_LOSSES[settings.program], settings, config),
        _batch(settings, batch_size),
        GraphOptions(is_training=True, use_tpu=True, use_bfloat16=settings.use_bfloat16),
        OptimizerConfig("funnel_adamw"),
        ScheduleConfig(1e-4, max(1, settings.train_steps), 0),
    )


def find_largest(
    compile_batch: Callable[[int], Compiled | None], start: int
) -> tuple[int, Compiled | None]:
    """Return the largest batch that fits, by doubling and bisection, and its figures.

    From 8 on only multiples of 8 are tried, the rows that a TPU works on at a time. The size is
    ``start``, without figures, if not even 1 fits.
    """
    best: tuple[int, Compiled | None] = (start, None)
    too_large, size = 0, start
    while True:
        if found := compile_batch(size):
            best = (size, found)
        else:
            too_large = size
        low = best[0] if best[1] else 0
        step = 8 if low >= 8 else 1
        if too_large and too_large - low <= step:
            return best
        size = low * 2 if not too_large else (low + too_large) // 2 // step * step
        size = max(size, low + step)


def make_report(
    settings: TpuCompileSettings, batch_size: int, devices: int, found: Compiled | None
) -> dict[str, Any]:
    """Return settings and figures by name; ``figures`` is None if the step does not fit."""
    wanted = asdict(settings) | {"batch_per_core": batch_size, "devices": devices}
    report: dict[str, Any] = {"settings": wanted, "fits": found is not None, "figures": None}
    if found is None:
        return report
    report["figures"] = asdict(found) | {"memory": found.memory}
    report["sequences_per_second"] = batch_size * devices / found.estimate
    if settings.train_steps:
        report["days"] = found.estimate * settings.train_steps / _DAY
    return report


def format_report(report: Mapping[str, Any]) -> str:
    """Return the report as a table."""
    wanted, figures, limit = report["settings"], report["figures"], report["memory_of_device"]
    shape = f"{wanted['batch_per_core']} x {wanted['seq_len']} per core"
    title = f"{wanted['model_config']}, {wanted['program']}, {shape}, {wanted['topology']}"
    if figures is None:
        return f"{title}\ndoes not fit in {limit / GIB:.0f} GiB"
    rows = [
        ("memory", f"{figures['memory'] / GIB:.2f} of {limit / GIB:.0f} GiB: fits"),
        ("  variables and batch", f"{figures['arguments'] / GIB:.2f} GiB"),
        ("  temporaries", f"{figures['temporaries'] / GIB:.2f} GiB"),
        ("  other results", f"{figures['outputs'] / GIB:.2f} GiB"),
        ("  code", f"{figures['code'] / GIB:.2f} GiB"),
        ("FLOPs of a step", f"{figures['flops']:.3g}"),
        ("bytes accessed", f"{figures['bytes_accessed'] / 1e9:.2f} GB"),
        ("  of HBM", f"{figures['hbm_bytes'] / 1e9:.2f} GB"),
        ("time of a step, by cycles", f"{figures['cycle_seconds']:.4f} s"),
    ]
    if figures["seconds"]:
        rows.append(("  by peak and bandwidth", f"{figures['seconds']:.4f} s"))
    rate = report["sequences_per_second"]
    rows.append((f"sequences/s, {wanted['devices']} devices", f"{rate:.1f}"))
    if "days" in report:
        rows.append((f"{wanted['train_steps']} steps", f"{report['days']:.2f} days"))
    lines = [f"{name:<28}{value}" for name, value in rows]
    note = "The compiler's account of one core, without the exchange of gradients; nothing was run."
    return "\n".join([title, *lines, note, *_format_profile(report)])


def _format_profile(report: Mapping[str, Any]) -> list[str]:
    """Return the operations with the most bytes, one a line after a heading; nothing without."""
    operations = report["figures"]["operations"]
    if not operations:
        return []
    total = sum(operation["bytes"] for operation in operations)
    lines = [
        f"{operation['bytes'] / 1e9:8.3f}{operation['bytes'] / total:7.1%}"
        f"{operation['instructions']:8}  {operation['operation']}"
        for operation in operations[:_OPERATIONS]
    ]
    return [f"{'GB':>8}{'share':>7}{'kernels':>8}  operation, all layers together", *lines]


def _batch(settings: TpuCompileSettings, size: int) -> dict[str, tf.TensorSpec]:
    length, targets = settings.seq_len, settings.targets
    schemas: dict[str, RecordSchema] = {
        "classifier": classifier_schema(length, regression=settings.num_labels == 1),
        "squad": squad_schema(length, training=True),
        "race": race_schema(length),
    }
    if settings.program in schemas:
        return {
            _RENAMED.get(name, name): tf.TensorSpec(
                (size, *field.shape), tf.float32 if field.is_float else tf.int32
            )
            for name, field in schemas[settings.program].fields.items()
        }
    tokens, slots = (size, length), (size, targets)
    integers = ("masked_input", "origin_input", "token_type_ids")
    batch = {name: tf.TensorSpec(tokens, tf.int32) for name in integers}
    masks = ("attention_mask", "mlm_attention_mask")
    batch |= {name: tf.TensorSpec(tokens, tf.float32) for name in masks}
    batch |= {name: tf.TensorSpec(slots, tf.int32) for name in ("target", "target_positions")}
    return batch | {"target_mask": tf.TensorSpec(slots, tf.float32)}


def _classifier(
    settings: TpuCompileSettings, config: ModelConfig, batch: Batch, options: GraphOptions
) -> tf.Tensor:
    return classification_head(
        config,
        ModelInputs.from_features(batch),
        batch["label_ids"],
        batch["is_real_example"],
        options,
        num_labels=settings.num_labels,
        regression=settings.num_labels == 1,
        scope="task",
    ).loss


def _race(
    settings: TpuCompileSettings, config: ModelConfig, batch: Batch, options: GraphOptions
) -> tf.Tensor:
    labels, weights = batch["label_ids"], batch["is_real_example"]
    return race_head(config, ModelInputs.from_features(batch), labels, weights, options).loss


def _squad(
    settings: TpuCompileSettings, config: ModelConfig, batch: Batch, options: GraphOptions
) -> tf.Tensor:
    return squad_head(config, ModelInputs.from_features(batch), batch, options).loss


def _mlm(
    settings: TpuCompileSettings, config: ModelConfig, batch: Batch, options: GraphOptions
) -> tf.Tensor:
    return mlm_graph(config, batch, options).loss


def _electra(
    settings: TpuCompileSettings, config: ModelConfig, batch: Batch, options: GraphOptions
) -> tf.Tensor:
    pretraining = PretrainingConfig(width_shrink=settings.width_shrink)
    return electra_graph(config, batch, options, pretraining).loss


_LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "mlm": _mlm,
    "electra": _electra,
    "classifier": _classifier,
    "squad": _squad,
    "race": _race,
}
