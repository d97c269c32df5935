"""Choices of heads and of pretraining that are not the model's own; both frameworks read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from funnel.checkpoints.names import generator_config
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class AnswerConfig:
    """How answers are modelled.

    Attributes:
        conditional_end: ends depend on the start (the gold one in training).
        use_answer_class: a separate answerability output; else the start's score at [CLS].
        use_masked_loss: positions outside the paragraph cannot be chosen.
        start_n_top: starts kept by the beam.
        end_n_top: ends kept, for each start if they depend on it.
        ans_loss_weight: factor on the sum of both span losses.
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
    """The choices of pretraining that are not the model's.

    Attributes:
        hide_masked: MLM alone: [MASK] positions are hidden from attention, as padding is (the
            original's way). ELECTRA always shows them.
        width_shrink: width of a new generator (d_model, d_inner, n_head), relative to the model's.
            A generator that comes with a checkpoint keeps its own.
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
        """The sizes of a new generator for ``model``.

        Raises:
            ConfigError: sizes shrunk like this make no model.
        """
        try:
            return generator_config(model, self.width_shrink)
        except ConfigError as error:
            shrink = self.width_shrink
            raise ConfigError(f"width_shrink: {shrink} makes no generator: {error}") from None


DEFAULT_ANSWERS = AnswerConfig()
DEFAULT_PRETRAINING = PretrainingConfig()
