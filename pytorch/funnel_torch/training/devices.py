"""Choice of the device that a process computes on, and the number formats it can have."""

from __future__ import annotations

import contextlib
import logging

import torch

from funnel.utils.errors import ConfigError, RunError

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_FORMS = "auto, cpu, cuda, cuda:N or mps"


def choose_device(device_id: int, name: str = "auto") -> torch.device:
    """Return the device that the user asks for.

    ``auto`` is CUDA device ``device_id``, or the CPU for -1 and on machines without a GPU; Apple's
    GPU is only taken by its name, ``mps``.

    Args:
        device_id: CUDA device; -1 is the CPU.
        name: ``auto``, ``cpu``, ``cuda`` (device ``device_id``), ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: ``name`` is no device, or contradicts ``device_id``.
        RunError: this machine has no such device.
    """
    kind, _, number = name.lower().partition(":")
    is_known = kind in ("auto", "cpu", "cuda", "mps")
    if not is_known or (number and not (kind == "cuda" and number.isdigit())) or name.endswith(":"):
        raise ConfigError(f"device={name!r}: should be {_FORMS}")
    if kind in ("cuda", "mps") and device_id < 0:
        raise ConfigError(
            f"device={name} and device_id={device_id}, the CPU, contradict each other"
        )
    if kind == "mps":
        return _require_mps()
    if kind == "cpu" or device_id < 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        return _without_cuda(name)
    return _check_cuda(int(number) if number else device_id)


def is_accelerator(device_id: int, name: str = "auto") -> bool:
    """Return whether :func:`choose_device` would return another device than the CPU."""
    if name.lower() == "mps":
        return True
    return device_id >= 0 and name.lower() != "cpu" and torch.cuda.is_available()


def check_precision(device: torch.device, precision: str) -> None:
    """Refuse a number format that a device does not have.

    Raises:
        RunError: bfloat16 on Apple's GPU before macOS 14.
    """
    if device.type != "mps" or precision != "bf16":
        return
    if not torch.backends.mps.is_macos_or_newer(14, 0):
        raise RunError("bf16 needs macOS 14 on device mps; fp16 or float32 do with an older one")


def _without_cuda(name: str) -> torch.device:
    if name != "auto":
        raise RunError(f"device={name}: this PyTorch finds no CUDA GPU here")
    if torch.backends.mps.is_available():
        logger.info("no CUDA GPU: running on the CPU (--device=mps selects Apple's GPU)")
    else:
        logger.info("no GPU found: running on the CPU (--device_id=-1 selects it explicitly)")
    return torch.device("cpu")


def _check_cuda(device_id: int) -> torch.device:
    if device_id >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RunError(f"device_id={device_id}: this machine has GPUs 0 to {count - 1}")
    return torch.device("cuda", device_id)


def _require_mps() -> torch.device:
    if not torch.backends.mps.is_available():
        built = "finds none here" if torch.backends.mps.is_built() else "is built without it"
        raise RunError(f"device=mps: Apple's GPU is needed, but this PyTorch {built}")
    return torch.device("mps")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the autocast context of a precision; parameters stay fp32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
