"""SQuAD: the trainable model, cached windows, and evaluation during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

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

# Settings of the head that determine which weights it has.
_KIND = ("conditional_end", "use_answer_class")


class TrainableQuestionAnswering(FunnelForQuestionAnswering):
    """The model with its targets as keyword arguments, as the training loop passes them."""

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

    def forward(self, *args: Any, **kwargs: Any) -> AnswerOutput:
        """Find answers, see the base class; takes the fields of ``AnswerTargets`` as keywords.

        The loss is computed if all three, int [B], are given.
        """
        given = [kwargs.pop(name, None) for name in AnswerTargets._fields]
        if all(target is not None for target in given):
            kwargs["targets"] = AnswerTargets(*given)
        return super().forward(*args, **kwargs)


def read_questions(
    source: SquadSource,
    tokenizer: Tokenizer,
    cache_dir: str = "",
    training: bool = False,
    num_proc: int = 1,
) -> tuple[SquadData, SquadWindows]:
    """Return the questions of a file and their windows, in the order of the file.

    Args:
        source: the file and the size of its windows.
        tokenizer: tokenizer with character offsets.
        cache_dir: cache of windows (those for evaluation are shared with the TensorFlow backend);
            empty for none.
        training: whether windows have answer positions.
        num_proc: number of processes that tokenize.

    Raises:
        DataError: the data cannot be read, or has no examples to train on.
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
    """The scorer of :mod:`funnel.features.squad_scoring` with an evaluation for fine-tuning."""

    def evaluation(self, source: ExampleSource, batch_size: int) -> Evaluation:
        """Return the evaluation of these questions during training."""
        return Evaluation("dev", source, self.score_outputs, BEAM_FIELDS, batch_size)

    def score_outputs(self, outputs: Outputs) -> dict[str, float]:
        """Return the metrics of model outputs, the target first."""
        return self.score(self.answers(outputs))
