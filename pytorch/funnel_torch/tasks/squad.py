"""SQuAD for the fine-tuner: the head with its targets, answers from its outputs, their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import Tensor

from funnel.checkpoints import Checkpoint
from funnel.features import squad_scoring as scoring
from funnel.features.squad import SquadWindows, build_windows
from funnel.features.squad_scoring import BEAM_FIELDS
from funnel.features.squad_tfrecords import SquadSource, load_windows, save_windows
from funnel.tasks.squad import SquadData
from funnel.tokenization import Tokenizer
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


def read_questions(
    source: SquadSource,
    tokenizer: Tokenizer,
    cache_dir: str = "",
    training: bool = False,
    num_proc: int = 1,
) -> tuple[SquadData, SquadWindows]:
    """The questions of a file and their windows, in its order.

    Args:
        source: the file and how it is cut.
        tokenizer: turns text into ids and places.
        cache_dir: holds windows, those to be answered in the TensorFlow tree's file; empty: none.
        training: windows with the places of the answers.
        num_proc: processes that tokenize.

    Raises:
        DataError: the data cannot be read, or has nothing to train on.
        FunnelError: the cache cannot be written.
    """
    data, kind = source.read(), "train" if training else "eval"
    vocabulary, windows = Path(tokenizer.path).name, None
    path = Path(cache_dir, source.name(vocabulary, f"{kind}.features", "npz"))
    key = str(source.key(tokenizer) | {"split": kind})
    if cache_dir and not source.overwrite:
        windows = load_windows(path, key)
    if windows is None:
        config = source.windows
        windows = build_windows(data, tokenizer, config, training, num_proc=num_proc)
        if cache_dir:
            save_windows(path, windows, key)
    return data, windows


class SquadScorer(scoring.SquadScorer):
    """The scorer of :mod:`funnel.features.squad_scoring` as the fine-tuner uses it."""

    def evaluation(self, source: ExampleSource, batch_size: int) -> Evaluation:
        """The evaluation of these questions during training."""

        def score(outputs: Outputs) -> dict[str, float]:
            return self.score(self.answers(outputs))

        return Evaluation("dev", source, score, BEAM_FIELDS, batch_size)
