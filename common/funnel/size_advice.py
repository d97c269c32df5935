"""Which published size fits a device: largest batch, speed and time per epoch of fine-tuning.

``python -m funnel.flops --advise --length=512 --memory=16GB --device=v100`` prints the table. It is
an estimate from three formulas, made before anything is downloaded or rented:

- *Memory.* Weights, gradients and the two moments of Adam take 16 bytes a parameter. A layer
  stores for its backward pass, per sequence, ``D (11 Tq + 3 Tk) + 3.2 N Tq Tk`` numbers (a test
  compares this with the tensors that autograd stores; the last term is absent where attention is
  fused). A tenth of the device stays free for workspaces and fragmentation.
- *FLOPs.* A training step costs three forward passes (:mod:`funnel.flops`).
- *Speed.* The device's peak times a utilization, whose origin the table's first line names.

Encoder with a classification head, no decoder; sequences of full length.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from funnel.config.geometry import encoder_geometry
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError

GIGABYTE = 10**9
BYTES_PER_PARAMETER = 16  # weight, gradient and two moments in float32
FREE_SHARE = 0.1
MEASURED_ON_CPU = "of the matrix products of this machine, timed just now"
ASSUMED = "assumed: nothing was measured on this device"
COMPILED = "the TPU compiler's estimate for 4 texts of 512 a core (docs/tpu.md), not a run"


@dataclass(frozen=True)
class Device:
    """What the estimate needs to know about a device.

    Attributes:
        memory: bytes of one chip or core.
        tflops: peak of one chip or core in the given precision.
        cores: how many train together, each on its part of the batch.
        bytes_per_number: of activations: 2 in mixed precision, 4 in float32.
        fused: attention is fused and stores no probabilities.
        utilization: achieved share of the peak.
        origin: where ``utilization`` comes from.
    """

    memory: float
    tflops: float
    cores: int = 1
    bytes_per_number: int = 2
    fused: bool = False
    utilization: float = 0.3
    origin: str = ASSUMED


# Published memory and dense 16-bit peaks. TPU v3 counts cores, later generations chips.
_V3, _V4, _V5E, _V6E = (
    (16 * 2**30, 61.5),
    (32 * 2**30, 275.0),
    (16 * 2**30, 197.0),
    (32 * 2**30, 918.0),
)
DEVICES = {
    "t4": Device(16 * GIGABYTE, 65.1),
    "v100": Device(16 * GIGABYTE, 125.0),
    "a100": Device(40 * GIGABYTE, 312.0, fused=True),
    "h100": Device(80 * GIGABYTE, 989.4, fused=True),
    "h200": Device(141 * GIGABYTE, 989.4, fused=True),
    "v3-8": Device(*_V3, cores=8, utilization=0.26, origin=COMPILED),
    "v4-8": Device(*_V4, cores=4, utilization=0.07, origin=COMPILED),
    "v5e-4": Device(*_V5E, cores=4, utilization=0.18, origin=COMPILED),
    "v6e-4": Device(*_V6E, cores=4, utilization=0.075, origin=COMPILED),
}
CPU_UTILIZATION = 0.6  # training B6-6-6H768 against its own matrix products, benchmarks/models.py
CPU_MEMORY = 16 * GIGABYTE


@dataclass(frozen=True)
class Workload:
    """What training a size needs: ``parameters``, and per sequence ``stored_numbers`` and FLOPs."""

    parameters: int
    stored_numbers: float
    flops: float


@dataclass(frozen=True)
class Advice:
    """Estimate for one size on one device.

    Attributes:
        batch_size: largest batch of all cores together; 0 if the weights alone do not fit.
        sequences_per_second: of training; 0 if nothing fits.
    """

    batch_size: int
    sequences_per_second: float


def stored_numbers(config: ModelConfig, seq_len: int, fused: bool = False) -> float:
    """Return how many numbers the encoder stores per sequence for the backward pass."""
    geometry = encoder_geometry(config, seq_len)
    total, before = 0.0, geometry[0]
    for block, spec in zip(geometry, config.blocks, strict=True):
        for layer in range(spec.layers):
            is_entry = layer == 0 and block.pooled and config.pool_q_only
            queries, keys = block.length, before.length if is_entry else block.length
            total += config.d_model * (11 * queries + 3 * keys)
            total += 0 if fused else 3.2 * config.n_head * queries * keys
        before = block
    return total


def advise(workload: Workload, device: Device) -> Advice:
    """Estimate the largest batch and the speed of training on ``device``."""
    free = device.memory * (1 - FREE_SHARE) - BYTES_PER_PARAMETER * workload.parameters
    batch = max(0, math.floor(free / (device.bytes_per_number * workload.stored_numbers)))
    if batch > 8:
        batch -= batch % 8  # sizes that matrix units like
    rate = device.cores * device.tflops * 1e12 * device.utilization / workload.flops
    return Advice(batch * device.cores, rate if batch else 0.0)


def find_device(name: str, memory: str = "") -> Device:
    """Return a device by name, with ``memory`` (such as ``16GB``) of each chip if given.

    Raises:
        ConfigError: the name or the memory is none.
    """
    if name == "cpu":
        device = Device(
            CPU_MEMORY, measure_cpu(), 1, 4, False, CPU_UTILIZATION, origin=MEASURED_ON_CPU
        )
    elif name in DEVICES:
        device = DEVICES[name]
    else:
        raise ConfigError(f"--device={name}: must be one of cpu, {', '.join(DEVICES)}")
    if not memory:
        return device
    return Device(**{**vars(device), "memory": parse_memory(memory)})


def parse_memory(text: str) -> float:
    """Return the bytes of ``16GB``, ``16GiB`` or ``16`` (gigabytes).

    Raises:
        ConfigError: the text is none of them.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB|G|)", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"--memory={text}: write gigabytes, such as 16GB")
    return float(match[1]) * (2**30 if match[2].lower() == "gib" else GIGABYTE)


def measure_cpu(size: int = 1024, repeats: int = 5) -> float:
    """Return the TFLOP/s of float32 matrix products on this machine, the best of a few."""
    left = np.ones((size, size), np.float32)
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e12


def format_advice(
    workloads: Mapping[str, Workload], seq_len: int, name: str, device: Device, examples: int
) -> str:
    """Return the table that the program prints, one row a size, the fastest first."""
    each = " each" if device.cores > 1 else ""
    precision = "16-bit" if device.bytes_per_number == 2 else "float32"
    lines = [
        f"{name}: {device.cores} x {device.memory / GIGABYTE:.0f} GB, {precision}, "
        f"{device.tflops:.3g} TFLOP/s{each}, of which {device.utilization:.0%} are used",
        f"({device.origin})",
        "",
        f"{'size':<16}{'encoder M':>10}{'batch':>8}{'sequences/s':>13}{'epoch':>10}",
    ]
    rows = [(size, advise(workload, device)) for size, workload in workloads.items()]
    for size, advice in sorted(rows, key=lambda row: -row[1].sequences_per_second):
        parameters = workloads[size].parameters
        row = f"{size:<16}{parameters / 1e6:>10.1f}"
        if advice.batch_size == 0:
            needed = BYTES_PER_PARAMETER * parameters / GIGABYTE
            lines.append(
                f"{row}   no sequence fits: weights, gradients and Adam take {needed:.1f} GB"
            )
            continue
        seconds = examples / advice.sequences_per_second
        lines.append(
            f"{row}{advice.batch_size:>8}{_format_rate(advice.sequences_per_second):>13}"
            f"{format_duration(seconds):>10}"
        )
    lines += ["", EXPLANATION.format(seq_len=seq_len, examples=examples)]
    return "\n".join(lines)


EXPLANATION = """\
batch: the largest that fits in training at {seq_len} tokens; --recompute_layers allows larger ones.
epoch: {examples} examples of full length. An estimate: see `funnel.size_advice`. Short texts take
less, since batches are as long as their longest text."""


def _format_rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def format_duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
