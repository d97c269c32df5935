"""Export a model with its head to ONNX, checked against onnxruntime before it is kept.

    {program} --model runs/mnli/best --output mnli.onnx
    {program} --model B4-4-4H768-ELEC-TF --task encoder --output encoder.onnx

The graph takes int64 `input_ids`, `attention_mask` (1 = real token) and `token_type_ids`
(0, 1, 2 = [CLS]), [batch, length] of any batch size and any length from the printed minimum on, odd
ones too; [batch, choices, length] for multiple choice. Question answering takes `p_mask` as well
(1 = no answer here), expects [CLS] first and returns its beams. The file's metadata holds task,
labels, model config, minimum length, and name and SHA-256 of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel.config.settings import group, setting
from funnel_torch.export.config import TASK_NAMES, ExportConfig


@dataclass(frozen=True)
class ExportSettings:
    """Model, output and graph."""

    model: str = setting(MISSING, "checkpoint of any supported kind")
    output: str = setting(MISSING, ".onnx file to write")
    task: str | None = setting(
        None, "head to export; default: that of the checkpoint", choices=TASK_NAMES
    )
    model_config: str | None = setting(None, "config file, if not in the directory of the weights")
    graph: ExportConfig = group("graph", ExportConfig)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(ExportSettings, __doc__, argv)
    # These import PyTorch, which --help does not need.
    from funnel.checkpoints import load_checkpoint
    from funnel.checkpoints.locate import require_checkpoint
    from funnel_torch.export.onnx import export_onnx, find_task, load_model
    from funnel_torch.export.onnx_check import import_onnx

    require_checkpoint(settings.model, settings.model_config)
    import_onnx()  # report a missing package before a large model is loaded
    checkpoint = load_checkpoint(settings.model, config_path=settings.model_config)
    model = load_model(checkpoint, settings.task or find_task(checkpoint))
    report = export_onnx(model, settings.output, settings.graph, checkpoint.metadata)
    print(
        f"{settings.output}: {report.task}, opset {settings.graph.opset}, "
        f"{report.size / 1e6:.1f} MB, length {report.minimum_length} or more; "
        f"onnxruntime differs from PyTorch by at most {report.difference:.1e}"
    )


command = entry_point(main)
