"""Export a model with its head to ONNX, checked against onnxruntime before it is kept.

    python pytorch/export_onnx.py --model runs/mnli/best --output mnli.onnx
    python pytorch/export_onnx.py --model B4-4-4H768-ELEC-TF --task encoder --output encoder.onnx

The graph takes int64 `input_ids`, `attention_mask` (1 = real token) and `token_type_ids`
(0, 1, 2 = [CLS]), [batch, length] of any batch size and any length from the printed minimum on, odd
ones too; [batch, choices, length] for multiple choice. Question answering takes `p_mask` as well
(1 = no answer here), expects [CLS] first and returns its beams. The file's metadata holds task,
labels, model config, minimum length, and name and SHA-256 of the vocabulary.
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

from funnel.checkpoints import load_checkpoint
from funnel.utils.main import run_main
from funnel_torch.export.onnx import OPSETS, TASKS, ExportConfig, export_onnx, find_task, load_model
from funnel_torch.export.onnx_check import import_onnx


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint of any supported kind")
    parser.add_argument("--output", required=True, help=".onnx file to write")
    parser.add_argument(
        "--task", choices=tuple(TASKS), help="what to export; default: what the checkpoint is for"
    )
    parser.add_argument("--model_config", help="config file, if not beside the weights")
    graph = parser.add_argument_group("graph")
    default = ExportConfig()
    graph.add_argument(
        "--opset",
        type=int,
        default=default.opset,
        help=f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]} (default {default.opset})",
    )
    graph.add_argument(
        "--batch", type=int, default=default.batch, help="sequences of the recorded example"
    )
    graph.add_argument("--length", type=int, help="tokens of the recorded example")
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    config = ExportConfig(opset=flags.opset, batch=flags.batch, length=flags.length)
    import_onnx()  # what is not installed should not show only once a large model is loaded
    checkpoint = load_checkpoint(flags.model, config_path=flags.model_config)
    model = load_model(checkpoint, flags.task or find_task(checkpoint))
    report = export_onnx(model, flags.output, config, checkpoint.metadata)
    print(
        f"{flags.output}: {report.task}, opset {config.opset}, {report.size / 1e6:.1f} MB, "
        f"length {report.minimum_length} or more; "
        f"onnxruntime differs from PyTorch by at most {report.difference:.1e}"
    )


if __name__ == "__main__":
    run_main(main)
