"""Model FLOPs utilization (MFU): peak throughput of devices.

MFU is the number of FLOPs of the model's matrix products, forward and backward, divided by the
number of FLOPs that the device could do in the same time (Chowdhery et al. 2022, appendix B).
Layers recomputed to save memory do not count.
"""

from __future__ import annotations

import torch

# Dense peaks in TFLOP/s by part of the device name: 16-bit tensor cores, and fp32 without TF32
# (which PyTorch disables by default). Longer names come before those they contain.
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


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """Return the published peak of a device in TFLOP/s, or None for CPUs and unknown GPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peaks for part, peaks in _PEAKS.items() if part in name), None)
    return None if found is None else found[1 if precision == "fp32" else 0]
