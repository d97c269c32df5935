"""ONNX files: one graph for any batch size and any length, checked before it gets its name.

A graph records operations, not branches. The only branch on the length that a graph must settle is
whether a sequence is too short for another pooling: a graph always pools, and its file says from
which length on that is right.
"""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from funnel.checkpoints import Checkpoint, names
from funnel.config.geometry import encoder_geometry
from funnel.config.model import MAX_ABSOLUTE_POSITIONS
from funnel.utils.errors import ConfigError, ExportError
from funnel.utils.files import atomic_path, sha256_file
from funnel_torch.export.onnx_check import GraphInputs, import_onnx, largest_difference
from funnel_torch.models.heads import (
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.models.initialization import unfilled
from funnel_torch.models.modeling import FunnelEncoder, FunnelModel
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.question_answering import FunnelForQuestionAnswering
from funnel_torch.models.weight_mapping import slots

# 14 is the first with all operations that attention needs, 20 the last the exporter writes.
OPSETS = range(14, 21)
TOLERANCE = 1e-4
_LARGEST_FILE = 2**31 - 1
_USUAL_LENGTH = 16
_BATCH = {0: "batch"}
_TOKENS = {0: "batch", 1: "length"}


@dataclass(frozen=True)
class ExportTask:
    """What can be exported under one name.

    Attributes:
        model: class with the head.
        variable: pattern of a checkpoint's variable that shows it has this head.
        outputs: names of output tensors, each with its dynamic axes.
        arguments: of the model's constructor.
    """

    model: type[PretrainedModel]
    variable: str
    outputs: Mapping[str, Mapping[int, str]]
    arguments: Mapping[str, Any] = field(default_factory=dict)


_CLASSIFIER = r"model/.+/logit/kernel"
_ENCODER = {"encoder_last_hidden_state": {0: "batch", 1: "pooled_length"}}
_ANSWERS = {
    "start_logits": _TOKENS,
    "end_logits": {0: "batch", 2: "length"},
    "start_top_log_probs": _BATCH,
    "start_top_index": _BATCH,
    "end_top_log_probs": _BATCH,
    "end_top_index": _BATCH,
    "cls_logits": _BATCH,
}
# In the order in which a checkpoint that does not say what it is for is searched for heads.
TASKS = {
    "classification": ExportTask(FunnelForSequenceClassification, _CLASSIFIER, {"logits": _BATCH}),
    "regression": ExportTask(
        FunnelForSequenceClassification, _CLASSIFIER, {"logits": _BATCH}, {"regression": True}
    ),
    "multiple_choice": ExportTask(
        FunnelForMultipleChoice,
        f"{names.RACE_LOGITS}/kernel",
        {"logits": {0: "batch", 1: "choices"}},
    ),
    "token_classification": ExportTask(
        FunnelForTokenClassification,
        f"{names.TOKEN_LOGITS}/kernel",
        {"logits": _TOKENS},
    ),
    "question_answering": ExportTask(
        FunnelForQuestionAnswering, f"{names.START_LOGITS}/kernel", _ANSWERS
    ),
    "discriminator": ExportTask(
        FunnelForPreTraining, f"{names.BINARY_OUTPUT}/weight", {"logits": _TOKENS}
    ),
    "mlm": ExportTask(FunnelForMaskedLM, names.LM_BIAS, {"logits": _TOKENS}),
    "model": ExportTask(FunnelModel, "model/decoder/.+", {"last_hidden_state": _TOKENS} | _ENCODER),
    "encoder": ExportTask(FunnelEncoder, "model/encoder/.+", _ENCODER),
}


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        opset: ONNX operator set, one of :data:`OPSETS`.
        batch: sequences of the example that is recorded; the graph takes any number.
        length: tokens of the example; the graph takes any length from its minimum on. None means
            16, or the minimum where that is more.
    """

    opset: int = 17
    batch: int = 2
    length: int | None = None

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ConfigError(f"opset {self.opset}: should be {OPSETS[0]} to {OPSETS[-1]}")
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch}: should be at least 1")


@dataclass(frozen=True)
class ExportReport:
    """An exported file: its task and bytes, its shortest input, how far it is from PyTorch."""

    task: str
    size: int
    minimum_length: int
    difference: float


def find_task(checkpoint: Checkpoint) -> str:
    """The task of a checkpoint: what it says it is, else the first head whose weights it has."""
    stated = checkpoint.metadata.get("architecture")
    present = [
        name
        for name, task in TASKS.items()
        if any(re.fullmatch(task.variable, variable) for variable in checkpoint.tensors)
    ]
    name = next((n for n in present if TASKS[n].model.architecture == stated), present[0])
    is_regression = checkpoint.metadata.get("problem_type") == "regression"
    return "regression" if is_regression and name == "classification" else name


def load_model(checkpoint: Checkpoint, task: str) -> PretrainedModel:
    """The model of ``task``, with nothing in it that is not the checkpoint's.

    Raises:
        ExportError: an unknown task, or one that the checkpoint lacks weights for.
    """
    if task not in TASKS:
        raise ExportError(f"task {task!r}: should be one of {', '.join(TASKS)}")
    kind, path = TASKS[task], checkpoint.metadata.get("path")
    arguments = kind.model.head_arguments(checkpoint) | kind.arguments
    with unfilled():
        empty = kind.model(checkpoint.config, **arguments)
    tensors = empty.adapt_tensors(checkpoint.tensors)
    needed = (slot.name for _, _, slot in slots(empty, checkpoint.config))
    missing = [name for name in needed if name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ExportError(f"{path}: has no weights for task {task}: {missing[0]}{more} missing")
    if task == "regression" and arguments.get("num_labels") != 1:
        raise ExportError(f"{path}: a head of {arguments['num_labels']} labels is no regression")
    return kind.model.from_checkpoint(checkpoint, **arguments)


def task_of(model: PretrainedModel) -> str:
    """The name in :data:`TASKS` of a model.

    Raises:
        ExportError: there is none.
    """
    for name, task in TASKS.items():
        is_regression = task.arguments.get("regression", False)
        if type(model) is task.model and getattr(model, "regression", False) == is_regression:
            return name
    raise ExportError(f"{type(model).__name__}: no model that can be exported")


def minimum_length(model: PretrainedModel) -> int:
    """The shortest sequence that every block pools and that a whole beam can be chosen from."""
    config, answers = model.config, getattr(model, "answers", None)
    shortest = next(
        length
        for length in itertools.count(1)
        if all(block.pooled for block in encoder_geometry(config, length)[1:])
    )
    return shortest if answers is None else max(shortest, answers.start_n_top, answers.end_n_top)


def maximum_length(model: PretrainedModel) -> int | None:
    """The longest sequence; None without a limit, which only absolute positions have."""
    return MAX_ABSOLUTE_POSITIONS if model.config.rel_attn_type == "null" else None


def describe(model: PretrainedModel, metadata: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of itself: text, or JSON for ``config`` and ``labels``.

    Args:
        model: the exported model.
        metadata: of the checkpoint it came from; ``labels`` and ``vocab_path`` are used.
    """
    facts = {
        "task": task_of(model),
        "architecture": model.architecture,
        "config": json.dumps(model.config.to_dict()),
        "minimum_length": str(minimum_length(model)),
    }
    if (longest := maximum_length(model)) is not None:
        facts["maximum_length"] = str(longest)
    if labels := metadata.get("labels"):
        facts["labels"] = json.dumps(list(labels), ensure_ascii=False)
    if vocabulary := metadata.get("vocab_path"):
        facts["vocabulary"] = Path(vocabulary).name
        facts["vocabulary_sha256"] = sha256_file(vocabulary)
    return facts


class _Graph(nn.Module):
    """The model with tensors by position in and out, the only form a graph knows."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model, self.outputs = model, tuple(_output_axes(model))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.model(*inputs)
        return tuple(getattr(found, name) for name in self.outputs)


def export_onnx(
    model: PretrainedModel,
    path: str | Path,
    config: ExportConfig = ExportConfig(),
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write an ONNX file once onnxruntime was seen to compute it right on several shapes.

    Inputs are int64 ``input_ids``, ``attention_mask`` (1 = real token) and ``token_type_ids``
    (2 = [CLS]), [batch, length] or, for multiple choice, [batch, choices, length]; question
    answering also takes ``p_mask`` (1 = no answer here) and expects [CLS] first. Outputs are named
    like PyTorch's.

    Args:
        model: float32 model of any head in :data:`TASKS`.
        path: file to write; what stands there survives a failure.
        config: operator set and example.
        metadata: of the model's checkpoint, for :func:`describe`.

    Raises:
        ExportError: packages are missing, the model does not fit an ONNX file, or onnxruntime
            differs from PyTorch by more than :data:`TOLERANCE` (absolute, relative above 1).
        ConfigError: the example is too short or too long for the model.
    """
    onnx, _ = import_onnx()
    facts = describe(model, metadata or {})
    shapes = _check_shapes(model, config)
    _check_weights(model, path)
    was_training = model.training
    graph, inputs = _Graph(model).eval(), GraphInputs.of(model)
    try:
        with atomic_path(path) as temporary:
            _record(graph, inputs, shapes[0], config.opset, temporary)
            file = onnx.load(temporary)
            onnx.helper.set_model_props(file, facts)
            onnx.save(file, temporary)
            size = temporary.stat().st_size
            difference = largest_difference(graph, inputs, temporary, shapes)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"onnxruntime and PyTorch differ by {difference:.1e}, more than {TOLERANCE:.0e}"
                )
    except ExportError as error:
        raise ExportError(f"{path}: not written: {error}") from error
    finally:
        model.train(was_training)
    return ExportReport(facts["task"], size, minimum_length(model), difference)


def _check_weights(model: PretrainedModel, path: str | Path) -> None:
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ExportError(f"{path}: only float32 models are exported; call model.float() first")
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    if size > _LARGEST_FILE:
        raise ExportError(
            f"{path}: {size / 2**30:.1f} GiB of weights do not fit an ONNX file (2 GiB at most)"
        )


def _check_shapes(model: PretrainedModel, config: ExportConfig) -> list[tuple[int, int]]:
    """The (batch, length) to record, and those to compare on too: the extremes and odd ones."""
    shortest, longest = minimum_length(model), maximum_length(model)
    length = max(_USUAL_LENGTH, shortest) if config.length is None else config.length
    if length < shortest or (longest is not None and length > longest):
        upper = "" if longest is None else f" and at most {longest}"
        raise ConfigError(f"length {length}: should be at least {shortest}{upper} for this model")
    others = (shortest, shortest + 1, shortest + 2, shortest + 29, longest or shortest + 64)
    return [(config.batch, length), *zip((1, 3, 2, 3, 1), others, strict=True)]


def _record(
    graph: _Graph, inputs: GraphInputs, shape: tuple[int, int], opset: int, path: Path
) -> None:
    """Trace ``graph`` on an example of ``shape`` and write it."""
    axes = dict.fromkeys(inputs.names, inputs.axes) | _output_axes(graph.model)
    # They tell of the branches that the module docstring tells of, and of the exporter's age.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            inputs.example(*shape),
            str(path),
            # The newer exporter needs packages that cannot be installed beside TensorFlow 2.15.
            dynamo=False,
            opset_version=opset,
            input_names=list(inputs.names),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            # Folding would store tied and shared weights twice; runtimes fold when they load.
            do_constant_folding=False,
        )


def _output_axes(model: PretrainedModel) -> dict[str, dict[int, str]]:
    """Names of a model's outputs with their dynamic axes."""
    axes = {name: dict(dims) for name, dims in TASKS[task_of(model)].outputs.items()}
    answers = getattr(model, "answers", None)
    if answers is not None and not answers.conditional_end:
        axes["end_logits"] = dict(_TOKENS)
    return axes
