"""Export to ONNX: one graph for any batch size and length, verified before the file is kept.

Tracing records operations, not branches. The only branch on the sequence length in the model is
whether a sequence is too short to be pooled again: the graph always pools, and the metadata of its
file states the minimum length for which that is right.
"""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from funnel.checkpoints import Checkpoint, names
from funnel.config.geometry import encoder_geometry
from funnel.config.model import MAX_ABSOLUTE_POSITIONS
from funnel.tokenization.saved import read_saved_tokenizer
from funnel.utils.errors import ConfigError, ExportError
from funnel.utils.files import atomic_path, sha256_file
from funnel_torch.export.config import ExportConfig
from funnel_torch.export.onnx_check import (
    GraphInputs,
    PositionalModel,
    import_onnx,
    largest_difference,
)
from funnel_torch.models.heads import (
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.models.initialization import skip_init
from funnel_torch.models.modeling import FunnelEncoder, FunnelModel
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.question_answering import FunnelForQuestionAnswering
from funnel_torch.models.weight_mapping import variable_views

TOLERANCE = 1e-4
_MAX_FILE_SIZE = 2**31 - 1  # bytes, a limit of protobuf
_DEFAULT_LENGTH = 16
_DEFAULT_CONFIG = ExportConfig()
_BATCH = {0: "batch"}
_TOKENS = {0: "batch", 1: "length"}


@dataclass(frozen=True)
class ExportTask:
    """A kind of model that can be exported.

    Attributes:
        model: class of the model with its head.
        variable: regular expression; a checkpoint with such a variable contains this head.
        outputs: names of the output tensors, each with its dynamic axes.
        arguments: constructor arguments of the model.
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
# In the order in which heads are looked for in a checkpoint without an architecture; the names are
# those of :data:`funnel_torch.export.config.TASK_NAMES`.
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
class ExportReport:
    """Properties of an exported file.

    Attributes:
        task: name in :data:`TASKS`.
        size: bytes.
        minimum_length: shortest input in tokens.
        difference: largest difference between the outputs of onnxruntime and PyTorch.
    """

    task: str
    size: int
    minimum_length: int
    difference: float


def find_task(checkpoint: Checkpoint) -> str:
    """Return the task of a checkpoint, by its recorded architecture or else its first head."""
    architecture = checkpoint.metadata.get("architecture")
    present = [
        name
        for name, task in TASKS.items()
        if any(re.fullmatch(task.variable, variable) for variable in checkpoint.tensors)
    ]
    name = next((n for n in present if TASKS[n].model.architecture == architecture), present[0])
    is_regression = checkpoint.metadata.get("problem_type") == "regression"
    return "regression" if is_regression and name == "classification" else name


def load_model(checkpoint: Checkpoint, task: str) -> PretrainedModel:
    """Load the model for ``task``; all its weights must come from the checkpoint.

    Raises:
        ExportError: ``task`` is unknown, or the checkpoint lacks weights for it.
    """
    if task not in TASKS:
        raise ExportError(f"task {task!r}: should be one of {', '.join(TASKS)}")
    cls, path = TASKS[task].model, checkpoint.metadata.get("path")
    arguments = {**cls.head_arguments(checkpoint), **TASKS[task].arguments}
    with skip_init():
        empty = cls(checkpoint.config, **arguments)
    tensors = empty.adapt_tensors(checkpoint.tensors)
    views = variable_views(empty, checkpoint.config)
    missing = [view.name for _, _, view in views if view.name not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ExportError(f"{path}: has no weights for task {task}: {missing[0]}{more} missing")
    if task == "regression" and arguments.get("num_labels") != 1:
        raise ExportError(f"{path}: a head of {arguments['num_labels']} labels is no regression")
    return cls.from_checkpoint(checkpoint, **arguments)


def get_task_name(model: PretrainedModel) -> str:
    """Return the name in :data:`TASKS` of a model.

    Raises:
        ExportError: models of its class cannot be exported.
    """
    for name, task in TASKS.items():
        is_regression = task.arguments.get("regression", False)
        if type(model) is task.model and getattr(model, "regression", False) == is_regression:
            return name
    raise ExportError(f"{type(model).__name__}: no model that can be exported")


def minimum_length(model: PretrainedModel) -> int:
    """Return the shortest length that every block pools and that fills a beam of answers."""
    config, answers = model.config, getattr(model, "answers", None)
    shortest = next(
        length
        for length in itertools.count(1)
        if all(block.pooled for block in encoder_geometry(config, length)[1:])
    )
    return shortest if answers is None else max(shortest, answers.start_n_top, answers.end_n_top)


def maximum_length(model: PretrainedModel) -> int | None:
    """Return the longest length; None without a limit, which only absolute positions have."""
    return MAX_ABSOLUTE_POSITIONS if model.config.rel_attn_type == "null" else None


def build_metadata(model: PretrainedModel, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of an ONNX file: text, or JSON for ``config`` and ``labels``.

    Args:
        model: the exported model.
        metadata: of the model's checkpoint; ``labels`` and ``vocab_path`` are used.
    """
    properties = {
        "task": get_task_name(model),
        "architecture": model.architecture,
        "config": json.dumps(model.config.to_dict()),
        "minimum_length": str(minimum_length(model)),
    }
    if (longest := maximum_length(model)) is not None:
        properties["maximum_length"] = str(longest)
    if labels := metadata.get("labels"):
        properties["labels"] = json.dumps(list(labels), ensure_ascii=False)
    if vocabulary := metadata.get("vocab_path"):
        properties["vocabulary"] = Path(vocabulary).name
        properties["vocabulary_sha256"] = sha256_file(vocabulary)
        properties |= _describe_tokenizer(Path(vocabulary).parent)
    return properties


def _describe_tokenizer(directory: Path) -> dict[str, str]:
    """Return how texts become ids, as JSON, if the directory of the weights records it."""
    saved = read_saved_tokenizer(directory)
    if saved is None:
        return {}
    described = {
        "kind": saved.kind,
        "uncased": saved.file.uncased,
        "keep_accents": saved.file.keep_accents,
        "segments": asdict(saved.file.options.segments),
    }
    return {"tokenizer": json.dumps(described)}


def export_onnx(
    model: PretrainedModel,
    path: str | Path,
    config: ExportConfig = _DEFAULT_CONFIG,
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write an ONNX file after verifying it with onnxruntime on several shapes.

    Inputs are int64 ``input_ids``, ``attention_mask`` (1 = real token) and ``token_type_ids``
    (2 = [CLS]), [batch, length] or, for multiple choice, [batch, choices, length]; question
    answering also takes ``p_mask`` (1 = no answer here) and expects [CLS] first. Outputs have the
    names of the PyTorch outputs.

    Args:
        model: float32 model of any class in :data:`TASKS`.
        path: file to write; an existing file is only replaced on success.
        config: operator set and traced example.
        metadata: of the model's checkpoint, for :func:`build_metadata`.

    Raises:
        ExportError: packages are missing, the model does not fit an ONNX file, or onnxruntime
            differs from PyTorch by more than :data:`TOLERANCE` (absolute, relative above 1).
        ConfigError: the example is too short or too long for the model.
    """
    onnx, _ = import_onnx()
    properties = build_metadata(model, metadata or {})
    shapes = _check_shapes(model, config)
    _check_weights(model, path)
    was_training = model.training
    graph = PositionalModel(model, tuple(_output_axes(model))).eval()
    inputs = GraphInputs.from_model(model)
    try:
        with atomic_path(path) as temporary:
            _trace(graph, inputs, shapes[0], config.opset, temporary)
            file = onnx.load(temporary)
            onnx.helper.set_model_props(file, properties)
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
    return ExportReport(properties["task"], size, minimum_length(model), difference)


def _check_weights(model: PretrainedModel, path: str | Path) -> None:
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ExportError(f"{path}: only float32 models are exported; call model.float() first")
    size = sum(parameter.numel() for parameter in model.parameters()) * 4
    if size > _MAX_FILE_SIZE:
        raise ExportError(
            f"{path}: {size / 2**30:.1f} GiB of weights do not fit an ONNX file (2 GiB at most)"
        )


def _check_shapes(model: PretrainedModel, config: ExportConfig) -> list[tuple[int, int]]:
    """Return the (batch, length) to trace, then others to verify on: extremes and odd lengths."""
    shortest, longest = minimum_length(model), maximum_length(model)
    length = max(_DEFAULT_LENGTH, shortest) if config.length is None else config.length
    if length < shortest or (longest is not None and length > longest):
        upper = "" if longest is None else f" and at most {longest}"
        raise ConfigError(f"length {length}: should be at least {shortest}{upper} for this model")
    others = (shortest, shortest + 1, shortest + 2, shortest + 29, longest or shortest + 64)
    return [(config.batch, length), *zip((1, 3, 2, 3, 1), others, strict=True)]


def _trace(
    graph: PositionalModel, inputs: GraphInputs, shape: tuple[int, int], opset: int, path: Path
) -> None:
    """Trace ``graph`` on an example of ``shape`` and write the file."""
    axes = dict.fromkeys(inputs.names, inputs.axes) | _output_axes(graph.model)
    # The warnings are about the branch in the module docstring and the deprecated exporter.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            inputs.example(*shape),
            str(path),
            # The newer exporter needs packages that cannot be installed with TensorFlow 2.15.
            dynamo=False,
            opset_version=opset,
            input_names=list(inputs.names),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            # Folding would store tied and shared weights twice; runtimes fold on loading.
            do_constant_folding=False,
        )


def _output_axes(model: PretrainedModel) -> dict[str, dict[int, str]]:
    """Return the names of a model's outputs with their dynamic axes."""
    axes = {name: dict(dims) for name, dims in TASKS[get_task_name(model)].outputs.items()}
    answers = getattr(model, "answers", None)
    if answers is not None and not answers.conditional_end:
        axes["end_logits"] = dict(_TOKENS)
    return axes
