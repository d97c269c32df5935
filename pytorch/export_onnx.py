"""Export a model with its head to ONNX, checked against onnxruntime before it is kept.

``python pytorch/export_onnx.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_torch.cli.commands.export_onnx import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
