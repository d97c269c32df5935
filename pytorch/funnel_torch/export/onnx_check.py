"""Verification of an ONNX file: onnxruntime's outputs against the PyTorch model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from funnel.utils.errors import ExportError
from funnel_torch.models.attention_inputs import SEGMENT_CLS
from funnel_torch.models.heads import FunnelForMultipleChoice
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.question_answering import AnswerConfig, FunnelForQuestionAnswering

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_NUM_CHOICES = 3
# Two scores that differ by less may be ranked in either order.
_MIN_GAP = 1e-5
# Outputs of a beam, which are in the order of its scores.
_RANKED = ("start_top_index", "end_logits", "end_top_log_probs", "end_top_index")


def import_onnx() -> tuple[ModuleType, ModuleType]:
    """Import onnx and onnxruntime, which only the export needs.

    Raises:
        ExportError: one of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "ONNX export needs the packages onnx and onnxruntime "
            f"(pip install -r requirements/export.txt): {error}"
        ) from error
    return onnx, onnxruntime


@dataclass(frozen=True)
class GraphInputs:
    """Inputs of an exported graph.

    Attributes:
        vocab_size: upper bound of token ids.
        device: device of the examples.
        has_choices: whether inputs are [B, C, T], several sequences per question, or [B, T].
        has_p_mask: whether ``p_mask`` is an input.
    """

    vocab_size: int
    device: torch.device
    has_choices: bool
    has_p_mask: bool

    @classmethod
    def from_model(cls, model: PretrainedModel) -> GraphInputs:
        """Return the inputs of ``model``."""
        answers = isinstance(model, FunnelForQuestionAnswering) and model.answers
        return cls(
            model.config.vocab_size,
            next(model.parameters()).device,
            has_choices=isinstance(model, FunnelForMultipleChoice),
            has_p_mask=bool(answers and answers.use_masked_loss),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Input names in the order of the model's arguments."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        return (*names, "p_mask") if self.has_p_mask else names

    @property
    def axes(self) -> dict[int, str]:
        """Names of the axes of every input; all are dynamic."""
        names = ("batch", "choices", "length") if self.has_choices else ("batch", "length")
        return dict(enumerate(names))

    def example(self, batch: int, length: int) -> tuple[Tensor, ...]:
        """Return random int64 inputs with padding on the right; the shape is the seed."""
        generator = torch.Generator().manual_seed(1000 * batch + length)
        shape = (batch, _NUM_CHOICES, length) if self.has_choices else (batch, length)
        ids = torch.randint(self.vocab_size, shape, generator=generator)
        real = torch.randint(length // 2 + 1, length + 1, (*shape[:-1], 1), generator=generator)
        mask = (torch.arange(length) < real).long()
        segments = torch.randint(2, shape, generator=generator) * mask
        segments[..., 0] = SEGMENT_CLS
        tensors = [ids, mask, segments]
        if self.has_p_mask:
            outside = (torch.rand(shape, generator=generator) < 0.3).long()
            outside[..., 0] = 0
            tensors.append(torch.maximum(outside, 1 - mask))
        return tuple(tensor.to(self.device) for tensor in tensors)


class PositionalModel(nn.Module):
    """A model whose outputs are a tuple of tensors, the only form that tracing supports.

    Args:
        model: takes tensors by position and returns a named tuple.
        outputs: fields of that tuple to return.
    """

    def __init__(self, model: PretrainedModel, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model: PretrainedModel = model
        self.outputs: tuple[str, ...] = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the model on ``inputs`` in the order of :attr:`GraphInputs.names`."""
        result = self.model(*inputs)
        return tuple(getattr(result, name) for name in self.outputs)


def largest_difference(
    graph: PositionalModel, inputs: GraphInputs, path: Path, shapes: Sequence[tuple[int, int]]
) -> float:
    """Return the largest difference between the outputs of ``graph`` and of the file at ``path``.

    Differences are absolute, relative where the value is above 1. The outputs of a beam are
    compared in rows whose best scores do not (nearly) tie.

    Args:
        graph: the traced model.
        inputs: its inputs.
        path: ONNX file.
        shapes: (batch, length) of the random examples to compare on.

    Raises:
        ExportError: onnxruntime cannot load or run the file.
    """
    answers = getattr(graph.model, "answers", None)
    worst = 0.0
    session = _open(path)
    for batch, length in shapes:
        example = inputs.example(batch, length)
        feeds = {n: x.cpu().numpy() for n, x in zip(inputs.names, example, strict=True)}
        with torch.no_grad():
            tensors = graph(*example)
        expected = {n: x.cpu().numpy() for n, x in zip(graph.outputs, tensors, strict=True)}
        try:
            found = session.run(list(graph.outputs), feeds)
        except Exception as error:  # onnxruntime's errors share no other base class
            raise ExportError(
                f"onnxruntime fails on {batch} x {length} tokens: {_first_line(error)}"
            ) from error
        rows = None if answers is None else _clear_rows(expected, answers)
        for name, other in zip(graph.outputs, found, strict=True):
            compared = slice(None) if rows is None or name not in _RANKED else rows
            worst = max(worst, _difference(expected[name][compared], other[compared]))
    return worst


def _open(path: Path) -> InferenceSession:
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # failures are raised; no need to print them too
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no other base class
        raise ExportError(f"onnxruntime cannot load the graph: {_first_line(error)}") from error


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if not expected.size:
        return 0.0
    gaps = np.abs(expected - found) / np.maximum(1, np.abs(expected))
    return float("inf") if np.isnan(gaps).any() else float(gaps.max())


def _clear_rows(outputs: Mapping[str, np.ndarray], answers: AnswerConfig) -> np.ndarray:
    """Return the rows [B] in which rounding cannot change the order of starts or ends."""
    starts = _has_clear_order(outputs["start_logits"], answers.start_n_top)
    ends = _has_clear_order(outputs["end_logits"], answers.end_n_top)
    return starts & (ends.all(1) if ends.ndim == 2 else ends)


def _has_clear_order(logits: np.ndarray, count: int) -> np.ndarray:
    """Return whether the ``count`` best of [..., T] differ from each other and the rest, [...]."""
    best = np.sort(logits, -1)[..., ::-1][..., : count + 1]
    return (best[..., :-1] - best[..., 1:] > _MIN_GAP).all(-1)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
