"""Extractive question answering (SQuAD): answer spans by beam search, and answerability."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnel.checkpoints import Checkpoint
from funnel.config.heads import DEFAULT_ANSWERS, AnswerConfig
from funnel.config.model import ModelConfig
from funnel_torch.models.initialization import initialize
from funnel_torch.models.layers import select_positions
from funnel_torch.models.losses import cross_entropy
from funnel_torch.models.modeling import FunnelModel
from funnel_torch.models.pretrained import PretrainedModel

# Logit of a position that cannot start or end an answer.
IMPOSSIBLE = -1e30


class AnswerTargets(NamedTuple):
    """Gold answers, each [B].

    Attributes:
        start_positions: token index.
        end_positions: token index.
        is_impossible: 1 where the question has no answer.
    """

    start_positions: Tensor
    end_positions: Tensor
    is_impossible: Tensor


class AnswerOutput(NamedTuple):
    """Output of the head, with S = ``start_n_top`` and E = ``end_n_top`` (at most T).

    Attributes:
        loss: weighted sum of the losses, None without targets.
        start_logits: [B, T], masked.
        end_logits: [B, T] for the gold start (with targets) or without ``conditional_end``, else
            [B, S, T] for each of the best starts.
        start_top_log_probs: [B, S].
        start_top_index: [B, S].
        end_top_log_probs: [B, S * E], start-major; [B, E] without ``conditional_end``.
        end_top_index: as ``end_top_log_probs``.
        cls_logits: [B], high for no answer (a log-probability without ``use_answer_class``).
    """

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    start_top_log_probs: Tensor
    start_top_index: Tensor
    end_top_log_probs: Tensor
    end_top_index: Tensor
    cls_logits: Tensor


class ConditionalEnd(nn.Module):
    """Scores of ends given a start: ``linear(LayerNorm(tanh(linear([h, h_start]))))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * config.d_model, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dense_1 = nn.Linear(config.d_model, 1)

    def forward(self, hidden: Tensor, start: Tensor) -> Tensor:
        """Map hidden states [B, T, D] and those of the starts [B, S, D] to logits [B, S, T]."""
        # A linear layer of a concatenation is the sum of two; the one of hidden is shared by all S.
        by_hidden, by_start = self.dense_0.weight.chunk(2, 1)
        from_hidden = F.linear(hidden, by_hidden, self.dense_0.bias)[:, None]
        inner = torch.tanh(from_hidden + F.linear(start, by_start)[:, :, None])
        return self.dense_1(self.layer_norm(inner))[..., 0].float()


class AnswerClass(nn.Module):
    """Answerability classifier of the expected start vector and the [CLS] vector."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.dense_1 = nn.Linear(config.d_model, 1, bias=False)

    def forward(self, expected_start: Tensor, cls: Tensor) -> Tensor:
        """Map two [B, D] to logits [B], high for no answer."""
        inner = torch.tanh(self.dense_0(torch.cat([expected_start, cls], -1)))
        return self.dense_1(self.dropout(inner))[:, 0].float()


class FunnelForQuestionAnswering(PretrainedModel):
    """Finds answer spans in the decoder's output (SQuAD 1.1 and 2.0)."""

    architecture = "FunnelForQuestionAnswering"

    def __init__(self, config: ModelConfig, answers: AnswerConfig = DEFAULT_ANSWERS) -> None:
        super().__init__(config)
        self.answers = answers
        self.funnel = FunnelModel(config)
        self.start = nn.Linear(config.d_model, 1)
        end = ConditionalEnd(config) if answers.conditional_end else nn.Linear(config.d_model, 1)
        self.end = end
        self.answer_class = AnswerClass(config) if answers.use_answer_class else None
        for module in (self.start, self.end, self.answer_class):
            if module is not None:
                initialize(module, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return which parts the saved head has."""
        tensors = checkpoint.tensors
        if "model/start_logits/dense/kernel" not in tensors:
            return {}
        conditional = "model/end_logits/dense_0/kernel" in tensors
        answer_class = "model/answer_class/dense_0/kernel" in tensors
        answers = AnswerConfig(conditional_end=conditional, use_answer_class=answer_class)
        return {"answers": answers}

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        modules = ("end.dense_0", "end.layer_norm", "end.dense_1")
        scopes = {name: name.replace("end.", "end_logits/") for name in modules}
        scopes |= {"start": "start_logits/dense", "end": "end_logits/dense"}
        return scopes | {f"answer_class.dense_{i}": f"answer_class/dense_{i}" for i in (0, 1)}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        p_mask: Tensor | None = None,
        cls_index: Tensor | None = None,
        targets: AnswerTargets | None = None,
    ) -> AnswerOutput:
        """Score starts and ends, and search the best spans.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token.
            token_type_ids: [B, T].
            p_mask: [B, T], 1 where no answer can start or end.
            cls_index: [B], position of [CLS]; None means 0.
            targets: gold answers, for the loss.
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        if not self.answers.use_masked_loss:
            p_mask = None
        if cls_index is None:
            cls_index = torch.zeros_like(input_ids[:, 0])
        start_logits = _masked(self.start(hidden)[..., 0].float(), p_mask)
        start_log_probs = F.log_softmax(start_logits, -1)
        count = min(self.answers.start_n_top, start_logits.shape[1])
        start_top, start_index = start_log_probs.topk(count)
        given = start_index if targets is None else targets.start_positions[:, None]
        end_logits = self._end_logits(hidden, given, p_mask)
        ends = F.log_softmax(end_logits, -1).topk(min(self.answers.end_n_top, hidden.shape[1]))
        if self.answer_class is not None:
            # The hidden state at the start, averaged over the distribution of starts.
            expected = torch.einsum("bt,btd->bd", start_log_probs.exp().to(hidden.dtype), hidden)
            cls_logits = self.answer_class(
                expected, select_positions(hidden, cls_index[:, None])[:, 0]
            )
        else:
            cls_logits = start_log_probs.gather(1, cls_index[:, None])[:, 0]
        squeeze = self.answers.conditional_end and targets is not None
        end_logits = end_logits[:, 0] if squeeze else end_logits
        loss = None
        if targets is not None:
            loss = self._loss(start_logits, end_logits, cls_logits, targets)
        tops = (start_top, start_index, ends.values.flatten(1), ends.indices.flatten(1))
        return AnswerOutput(loss, start_logits, end_logits, *tops, cls_logits)

    def _end_logits(self, hidden: Tensor, given: Tensor, p_mask: Tensor | None) -> Tensor:
        """Return [B, S, T] for the given starts [B, S]; [B, T] if ends do not depend on starts."""
        if not self.answers.conditional_end:
            return _masked(self.end(hidden)[..., 0].float(), p_mask)
        mask = None if p_mask is None else p_mask[:, None]
        return _masked(self.end(hidden, select_positions(hidden, given)), mask)

    def _loss(
        self, start_logits: Tensor, end_logits: Tensor, cls_logits: Tensor, targets: AnswerTargets
    ) -> Tensor:
        start_loss = cross_entropy(start_logits, targets.start_positions)
        end_loss = cross_entropy(end_logits, targets.end_positions)
        loss = self.answers.ans_loss_weight * (start_loss + end_loss)
        if self.answer_class is None:
            return loss
        impossible = targets.is_impossible.float()
        cls_loss = F.binary_cross_entropy_with_logits(cls_logits, impossible)
        return loss + self.answers.cls_loss_weight * cls_loss


def _masked(logits: Tensor, p_mask: Tensor | None) -> Tensor:
    """Set the logits of the positions marked by ``p_mask`` to :data:`IMPOSSIBLE`."""
    return logits if p_mask is None else logits.masked_fill(p_mask > 0, IMPOSSIBLE)
