"""Whether onnxruntime computes from a file what PyTorch computes from the model it was made of."""

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

_CHOICES = 3
# Two scores nearer than this may come in either order.
_CLEAR = 1e-5
# What a beam returns follows the order of its scores.
_RANKED = ("start_top_index", "end_logits", "end_top_log_probs", "end_top_index")


def import_onnx() -> tuple[ModuleType, ModuleType]:
    """The packages onnx and onnxruntime, which only export needs.

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
    """The inputs of an exported graph.

    Attributes:
        vocab_size: token ids are below it.
        device: where examples are made.
        has_choices: sequences come several per question, [B, C, T] instead of [B, T].
        has_p_mask: positions that cannot be an answer are named.
    """

    vocab_size: int
    device: torch.device
    has_choices: bool
    has_p_mask: bool

    @classmethod
    def of(cls, model: PretrainedModel) -> GraphInputs:
        """What ``model`` takes."""
        is_answering = isinstance(model, FunnelForQuestionAnswering)
        return cls(
            model.config.vocab_size,
            next(model.parameters()).device,
            has_choices=isinstance(model, FunnelForMultipleChoice),
            has_p_mask=is_answering and model.answers.use_masked_loss,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the model's arguments."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        return (*names, "p_mask") if self.has_p_mask else names

    @property
    def axes(self) -> dict[int, str]:
        """The axes, all dynamic, that every input has."""
        names = ("batch", "choices", "length") if self.has_choices else ("batch", "length")
        return dict(enumerate(names))

    def example(self, batch: int, length: int) -> tuple[Tensor, ...]:
        """Random int64 inputs with padding on the right, the same for the same shape."""
        generator = torch.Generator().manual_seed(1000 * batch + length)
        shape = (batch, _CHOICES, length) if self.has_choices else (batch, length)
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


def largest_difference(
    graph: nn.Module, inputs: GraphInputs, path: Path, shapes: Sequence[tuple[int, int]]
) -> float:
    """The largest difference between the outputs of ``graph`` and of the file at ``path``.

    Differences are absolute, relative where the value is above 1. A beam's order is compared where
    its scores have a clear one.

    Args:
        graph: module with ``outputs``, their names, and in ``model`` the model.
        inputs: what it takes.
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
        except Exception as error:  # onnxruntime's errors have no other base class
            raise ExportError(
                f"onnxruntime fails on {batch} x {length} tokens: {_first_line(error)}"
            ) from error
        rows = None if answers is None else _clear_rows(expected, answers)
        for name, other in zip(graph.outputs, found, strict=True):
            kept = slice(None) if rows is None or name not in _RANKED else rows
            worst = max(worst, _difference(expected[name][kept], other[kept]))
    return worst


def _open(path: Path) -> InferenceSession:
    _, onnxruntime = import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # failures are raised; no need to print them too
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other base class
        raise ExportError(f"onnxruntime cannot load the graph: {_first_line(error)}") from error


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if not expected.size:
        return 0.0
    gaps = np.abs(expected - found) / np.maximum(1, np.abs(expected))
    return float("inf") if np.isnan(gaps).any() else float(gaps.max())


def _clear_rows(outputs: Mapping[str, np.ndarray], answers: AnswerConfig) -> np.ndarray:
    """Rows [B] in which neither the best starts nor their best ends are a matter of rounding."""
    clear = _is_clear(outputs["start_logits"], answers.start_n_top)
    ends = _is_clear(outputs["end_logits"], answers.end_n_top)
    return clear & (ends.all(1) if ends.ndim == 2 else ends)


def _is_clear(logits: np.ndarray, count: int) -> np.ndarray:
    """Whether the ``count`` best of [..., T] stand apart from each other and the rest, [...]."""
    best = np.sort(logits, -1)[..., ::-1][..., : count + 1]
    return (best[..., :-1] - best[..., 1:] > _CLEAR).all(-1)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
