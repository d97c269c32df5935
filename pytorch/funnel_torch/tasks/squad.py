"""SQuAD for the fine-tuner: the head with its targets, answers from its outputs, their scores."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from funnel.checkpoints import Checkpoint
from funnel.features import squad_scoring as scoring
from funnel.features.squad_scoring import BEAM_FIELDS
from funnel.utils.errors import CheckpointError
from funnel_torch.data.batching import ExampleSource
from funnel_torch.models.question_answering import (
    AnswerOutput,
    AnswerTargets,
    FunnelForQuestionAnswering,
)
from funnel_torch.tasks.finetune import Evaluation, Outputs

# Settings of the head that decide which weights there are.
_KIND = ("conditional_end", "use_answer_class")


class TrainableQuestionAnswering(FunnelForQuestionAnswering):
    """The head as the training loop calls it: targets are keywords like all inputs of a batch."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **overrides: Any) -> Self:
        """See the base class.

        Raises:
            CheckpointError: the checkpoint holds a head of another kind than is asked for.
        """
        saved = cls.head_arguments(checkpoint).get("answers")
        wanted = overrides.get("answers", saved)
        for key in _KIND if saved is not None else ():
            if getattr(saved, key) != getattr(wanted, key):
                flag = f"--{'' if getattr(saved, key) else 'no-'}{key}"
                raise CheckpointError(
                    f"{checkpoint.metadata.get('path')}: its head was trained with {flag}; "
                    "say so, or --new_head to start with a fresh head"
                )
        return super().from_checkpoint(checkpoint, **overrides)

    def forward(
        self,
        *inputs: Tensor,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        **named: Any,
    ) -> AnswerOutput:
        """Find answers, as the base class does; all three targets [B], or none of them."""
        if start_positions is not None and end_positions is not None and is_impossible is not None:
            named["targets"] = AnswerTargets(start_positions, end_positions, is_impossible)
        return super().forward(*inputs, **named)


class SquadScorer(scoring.SquadScorer):
    """The scorer of :mod:`funnel.features.squad_scoring` as the fine-tuner uses it."""

    def evaluation(self, source: ExampleSource, batch_size: int) -> Evaluation:
        """The evaluation of these questions during training."""

        def score(outputs: Outputs) -> dict[str, float]:
            return self.score(self.answers(outputs))

        return Evaluation("dev", source, score, BEAM_FIELDS, batch_size)
