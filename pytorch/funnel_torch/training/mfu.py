"""How much of a processor's arithmetic a run uses: model FLOPs utilisation (MFU).

MFU is what the model's matrix products need, forward and backward, over what the device could do in
that time (Chowdhery et al. 2022, appendix B). Layers computed again to save memory do not count.
"""

from __future__ import annotations

import torch

# Dense peak, in TFLOP/s, by a part of the device's name: 16-bit tensor cores; fp32, as a run in
# full precision uses it (without TF32, which torch leaves off).
_PEAKS = {
    "B200": (2250.0, 75.0),
    "H200": (989.4, 66.9),
    "H100 PCIe": (756.0, 51.2),
    "H100": (989.4, 66.9),
    "A100": (312.0, 19.5),
    "L40S": (362.1, 91.6),
    "L4": (121.0, 30.3),
    "A10": (125.0, 31.2),
    "T4": (65.1, 8.1),
    "V100": (125.0, 15.7),
}

# A backward pass costs two forward ones: gradients of inputs and of weights.
FORWARD_PASSES_PER_STEP = 3


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """The device's published peak in TFLOP/s; None where it is not known (CPUs, other GPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peaks for part, peaks in _PEAKS.items() if part in name), None)
    return None if found is None else found[1 if precision == "fp32" else 0]
