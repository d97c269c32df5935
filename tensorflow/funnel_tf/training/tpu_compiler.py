"""Compile a training step for a TPU that is not there, and report what its compiler says.

libtpu holds the TPU compiler and JAX runs it for a described topology; a TensorFlow function gets
there as HLO (``jax2tf.call_tf``). The step is lowered for a CPU, since the CPU wheel of TensorFlow
has no kernels registered for a TPU, once for all TPUs, and compiled for one core of each. So the
exchange of gradients between cores is not in the figures, and nothing is run.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from funnel.utils.errors import ConfigError
from funnel_tf.training.functional_step import TrainingStep
from funnel_tf.training.hlo_profile import OperationBytes, profile_hlo

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A generation of TPUs.

    Attributes:
        topology: libtpu's name of the smallest topology.
        cores_per_device: cores in the name of a TPU (``v4-8`` has 8) per device of the compiler.
        memory: bytes of one device.
        megahertz: clock, from the published peak and the size of the matrix units.
    """

    topology: str
    cores_per_device: int
    memory: int
    megahertz: int


CHIPS = {
    "v2": Chip("v2:2x2", 1, 8 * GIB, 700),
    "v3": Chip("v3:2x2", 1, 16 * GIB, 940),
    "v4": Chip("v4:2x2x1", 2, 32 * GIB, 1050),
    "v5e": Chip("v5e:2x2", 1, 16 * GIB, 1500),
    "v5p": Chip("v5p:2x2x1", 2, 95 * GIB, 1750),
    "v6e": Chip("v6e:2x2", 1, 32 * GIB, 1750),
}
_NAME = re.compile(r"^(v\d[ep]?)-(\d+)$")


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step on one device.

    Attributes:
        arguments: bytes of variables, optimizer slots and batch.
        outputs: bytes of results that do not take the place of arguments.
        temporaries: bytes of everything between.
        code: bytes of the program.
        flops: floating-point operations.
        bytes_accessed: bytes read and written, on the chip, too.
        hbm_bytes: those of HBM.
        seconds: time at the peak and the bandwidth that the compiler reckons with; None for a graph
            too small for it.
        cycle_seconds: the cycles of its schedule of every kernel, one after the other.
        operations: bytes by operation, the most first; empty unless requested.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    flops: float
    bytes_accessed: float
    hbm_bytes: int
    seconds: float | None
    cycle_seconds: float
    operations: tuple[OperationBytes, ...] = ()

    @property
    def memory(self) -> int:
        """Bytes on the device."""
        return self.arguments + self.outputs + self.temporaries + self.code

    @property
    def estimate(self) -> float:
        """Seconds of a step: the longer of both estimates, each of which leaves something out."""
        return max(self.seconds or 0.0, self.cycle_seconds)


def parse_topology(name: str) -> tuple[Chip, int]:
    """Return the generation of a TPU and its number of devices.

    Raises:
        ConfigError: the name is not that of a TPU.
    """
    match = _NAME.match(name)
    chip = CHIPS.get(match[1]) if match else None
    devices, rest = divmod(int(match[2]), chip.cores_per_device) if match and chip else (0, 0)
    if chip is None or devices < 1 or rest:
        raise ConfigError(
            f"--topology={name}: expected a generation ({', '.join(CHIPS)}) and a number of cores, "
            "e.g. v3-8"
        )
    return chip, devices


@dataclass(frozen=True)
class LoweredStep:
    """A step as StableHLO, the same for every TPU.

    Attributes:
        exported: JAX's function of variables and batch, in this order.
        variables: number of variables, whose memory the results may take.
    """

    exported: Any
    variables: int


def lower_step(step: TrainingStep) -> LoweredStep:
    """Build the graph of a step, the update of all variables included, and lower it.

    Args:
        step: the step.

    Returns:
        What :func:`compile_step` compiles, for any number of TPUs.
    """
    import jax
    from jax.experimental.jax2tf import call_tf

    specs, names = step.variables(), list(step.batch)

    def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
        # JAX has no 64-bit integers by default; the step counter is one.
        values = {s.name: tf.cast(t, s.dtype) for s, t in zip(specs, tensors, strict=False)}
        new, loss = step.run(values, dict(zip(names, tensors[len(specs) :], strict=True)))
        return [tf.cast(new[s.name], _jax_dtype(s.dtype)) for s in specs] + [loss]

    arguments = [
        jax.ShapeDtypeStruct(tuple(spec.shape), _jax_dtype(spec.dtype))
        for spec in (*specs, *step.batch.values())
    ]
    function = tf.function(run, autograph=False, jit_compile=True)
    jitted = jax.jit(call_tf(function, has_side_effects=False))
    return LoweredStep(jax.export.export(jitted, platforms=("cpu",))(*arguments), len(specs))


def compile_step(step: LoweredStep, chip: Chip, *, profile: bool = False) -> Compiled | None:
    """Compile a step for one device.

    Args:
        step: the step.
        chip: the device.
        profile: also return the bytes by operation.

    Returns:
        The figures; None if the compiler refuses because the memory does not suffice.
    """
    import jax
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    described = topologies.get_topology_desc(platform="tpu", topology_name=chip.topology)
    place = NamedSharding(Mesh(np.array(described.devices[:1]), ("core",)), PartitionSpec())
    jitted = jax.jit(
        step.exported.call,
        in_shardings=place,
        out_shardings=place,
        donate_argnums=tuple(range(step.variables)),
    )
    lowered = jitted.trace(*step.exported.in_avals).lower(lowering_platforms=("cpu",))
    try:
        return _figures(lowered.compile(), chip, profile)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
    finally:
        # libtpu leaves gigabytes in glibc's arenas, on top of which the next compilation came.
        ctypes.CDLL(None).malloc_trim(0)


def _jax_dtype(dtype: tf.DType) -> Any:
    return np.int32 if dtype == tf.int64 else dtype.as_numpy_dtype


def _figures(compiled: Any, chip: Chip, profile: bool) -> Compiled:
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    hlo = profile_hlo(compiled.as_text())
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        hbm_bytes=hlo.hbm_bytes,
        seconds=_add_joins(cost.get("optimal_seconds", 0.0), hlo.joins),
        cycle_seconds=hlo.cycles / (1e6 * chip.megahertz),
        operations=hlo.operations if profile else (),
    )


def _add_joins(seconds: float, joins: int) -> float | None:
    """Return the compiler's estimate without the -1 s that it counts for each join; None: none.

    A compiler that does not count joins has a sum above 0, to which nothing is to be added.
    """
    seconds += joins if seconds < 0 else 0
    return seconds if seconds > 0 else None
