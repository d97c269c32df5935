"""Settings of the question-answering head and of pretraining, shared by both backends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class AnswerConfig:
    """Settings of the question-answering head.

    Attributes:
        conditional_end: score ends given the start (the gold start in training).
        use_answer_class: predict answerability by a layer of its own, otherwise by the start score
            of [CLS].
        use_masked_loss: exclude positions outside the paragraph.
        start_n_top: starts kept by the beam search.
        end_n_top: ends kept; per start with ``conditional_end``.
        ans_loss_weight: factor on the sum of the start and end losses.
        cls_loss_weight: factor on the answerability loss.
    """

    conditional_end: bool = True
    use_answer_class: bool = True
    use_masked_loss: bool = True
    start_n_top: int = 5
    end_n_top: int = 5
    ans_loss_weight: float = 0.5
    cls_loss_weight: float = 0.5


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of masked-language-model and ELECTRA pretraining.

    Attributes:
        hide_masked: MLM only: mask [MASK] positions in attention as padding is, as the original
            does. ELECTRA always attends to them.
        width_shrink: width of a new generator (d_model, d_inner, n_head) relative to the model's.
            A generator loaded from a checkpoint keeps its own.
        disc_coeff: factor on the discriminator's loss.
    """

    hide_masked: bool = True
    width_shrink: float = 0.25
    disc_coeff: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.width_shrink <= 1:
            raise ConfigError(f"width_shrink: {self.width_shrink} should be above 0 and at most 1")
        if not 0 <= self.disc_coeff < math.inf:
            raise ConfigError(f"disc_coeff: {self.disc_coeff} should be a number from 0 up")

    def generator(self, model: ModelConfig) -> ModelConfig:
        """Return the configuration of a new generator for ``model``.

        Raises:
            ConfigError: the shrunk sizes are no valid model.
        """
        try:
            return generator_config(model, self.width_shrink)
        except ConfigError as error:
            shrink = self.width_shrink
            raise ConfigError(f"width_shrink: {shrink} makes no generator: {error}") from None


def generator_config(config: ModelConfig, width_shrink: float = 0.25) -> ModelConfig:
    """Return the configuration of ELECTRA's generator for ``config``.

    It is as deep as the discriminator and ``width_shrink`` as wide (section 3.1). Head size and
    embedding size stay: both models share the embedding table.
    """
    return config.replace(
        d_model=int(config.d_model * width_shrink),
        d_inner=int(config.d_inner * width_shrink),
        n_head=int(config.n_head * width_shrink),
    )


DEFAULT_ANSWERS = AnswerConfig()
DEFAULT_PRETRAINING = PretrainingConfig()
