"""SQuAD: the trainable model, cached windows, and evaluation during training."""

from __future__ import annotations

from typing import Any, Self

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

# Settings of the head that determine which weights it has.
_KIND = ("conditional_end", "use_answer_class")


class TrainableQuestionAnswering(FunnelForQuestionAnswering):
    """The model with its targets as keyword arguments, as the training loop passes them."""

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, complete: bool = False, **overrides: Any
    ) -> Self:
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
        return super().from_checkpoint(checkpoint, complete=complete, **overrides)

    def forward(self, *args: Any, **kwargs: Any) -> AnswerOutput:
        """Find answers, see the base class; takes the fields of ``AnswerTargets`` as keywords.

        The loss is computed if all three, int [B], are given.
        """
        given = [kwargs.pop(name, None) for name in AnswerTargets._fields]
        if all(target is not None for target in given):
            kwargs["targets"] = AnswerTargets(*given)
        return super().forward(*args, **kwargs)


class SquadScorer(scoring.SquadScorer):
    """The scorer of :mod:`funnel.features.squad_scoring` with an evaluation for fine-tuning."""

    def evaluation(self, source: ExampleSource, batch_size: int) -> Evaluation:
        """Return the evaluation of these questions during training."""
        return Evaluation("dev", source, self.score_outputs, BEAM_FIELDS, batch_size)

    def score_outputs(self, outputs: Outputs) -> dict[str, float]:
        """Return the metrics of model outputs, the target first."""
        return self.score(self.answers(outputs))
