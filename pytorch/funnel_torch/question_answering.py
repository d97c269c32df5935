"""SQuAD for the fine-tuner: the head with its targets, answers from its outputs, their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from funnel.checkpoints import Checkpoint
from funnel.errors import CheckpointError, ConfigError
from funnel.squad_answers import AnswerSettings, BeamOutputs, SquadAnswers, find_answers
from funnel.squad_features import SquadWindows
from funnel.squad_metrics import evaluate_v1, evaluate_v2
from funnel.tasks.squad import SquadData
from funnel_torch.answering import AnswerOutput, AnswerTargets, FunnelForQuestionAnswering
from funnel_torch.data import ExampleSource
from funnel_torch.finetune import Evaluation, Outputs

# Fields of the model's output, in the order of BeamOutputs.
BEAM_FIELDS = (
    *("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index"),
    "cls_logits",
)
# Settings of the head that decide which weights there are.
_KIND = ("conditional_end", "use_answer_class")
# Metrics of SQuAD 2.0 that say how much or where, not how good.
_NO_SCORES = ("thresh", "threshold", "total")


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


@dataclass(frozen=True)
class SquadScorer:
    """Turns the outputs for windows into answers and scores.

    ``version`` is that of the metrics; ``target`` the metric by which the best model is chosen;
    ``threshold`` is where "no answer" begins for the breakdown of 2.0, None for the best for F1.

    Raises:
        ConfigError: there is no such metric.
    """

    data: SquadData
    windows: SquadWindows
    settings: AnswerSettings
    version: str = "v2"
    target: str = "best_f1"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.has_gold:
            return
        nothing = {question.id: "" for question in self.data.questions}
        known = self._metrics(nothing, dict.fromkeys(nothing, 0.0))
        names = [name for name in known if name.rpartition("_")[2] not in _NO_SCORES]
        if self.target not in names:
            raise ConfigError(
                f"target_eval_key={self.target!r} is no score of {self.data.path} in version "
                f"{self.version}; it can be {', '.join(names)}"
            )

    @property
    def has_gold(self) -> bool:
        """Whether the answers are known, so that there is something to score."""
        return all(question.answers is not None for question in self.data.questions)

    def answers(self, outputs: Outputs) -> SquadAnswers:
        """The answers that the outputs :data:`BEAM_FIELDS` of all windows amount to."""
        beams = [outputs[name] for name in BEAM_FIELDS]
        for place in (1, 3):  # positions went through the same float32 as everything else
            beams[place] = beams[place].astype("int64")
        return find_answers(self.data, self.windows, BeamOutputs(*beams), self.settings)

    def score(self, answers: SquadAnswers) -> dict[str, float]:
        """The metrics of answers, the target first."""
        metrics = self._metrics(answers.predictions, answers.null_odds)
        return {self.target: metrics[self.target], **metrics}

    def evaluation(self, source: ExampleSource, batch_size: int) -> Evaluation:
        """The evaluation of these questions during training."""

        def score(outputs: Outputs) -> dict[str, float]:
            return self.score(self.answers(outputs))

        return Evaluation("dev", source, score, BEAM_FIELDS, batch_size)

    def _metrics(
        self, predictions: Mapping[str, str], null_odds: Mapping[str, float]
    ) -> dict[str, float]:
        if self.version == "v1":
            return evaluate_v1(self.data, predictions)
        return evaluate_v2(self.data, predictions, null_odds, self.threshold)
