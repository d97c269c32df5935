"""Settings of the question-answering head and of pretraining; what a saved classifier is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from funnel.config.model import ModelConfig
from funnel.config.settings import setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class AnswerConfig:
    """Settings of the question-answering head: outputs, beam search and loss.

    With ``conditional_end``, ends are scored given the start (the gold start in training). Without
    an answer class, answerability is the start score of [CLS].
    """

    conditional_end: bool = setting(True, "ends depend on the start", negatable=True)
    use_answer_class: bool = setting(True, "a separate output for no answer", negatable=True)
    use_masked_loss: bool = setting(True, "answers only inside the paragraph", negatable=True)
    start_n_top: int = setting(5, "starts kept by the beam")
    end_n_top: int = setting(5, "ends kept, per start if they depend on it")
    ans_loss_weight: float = setting(0.5, "factor on start loss plus end loss")
    cls_loss_weight: float = setting(0.5, "factor on the answerability loss")


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of masked-language-model and ELECTRA pretraining.

    ``hide_masked`` concerns MLM only; ELECTRA always attends to [MASK]. ``width_shrink`` is the
    width (d_model, d_inner, n_head) of a new generator relative to the model; a generator loaded
    from a checkpoint keeps its own.
    """

    hide_masked: bool = setting(
        True, "MLM: hide [MASK] positions from attention, as the original does", negatable=True
    )
    width_shrink: float = setting(0.25, "width of ELECTRA's generator relative to the model")
    disc_coeff: float = setting(50.0, "factor on the discriminator loss")

    def __post_init__(self) -> None:
        if not 0 < self.width_shrink <= 1:
            raise ConfigError(f"width_shrink: {self.width_shrink} should be above 0 and at most 1")
        if not 0 <= self.disc_coeff < math.inf:
            raise ConfigError(f"disc_coeff: {self.disc_coeff} should be a number from 0 up")

    def generator(self, model: ModelConfig) -> ModelConfig:
        """Return the configuration of a new generator for ``model``.

        Raises:
            ConfigError: the shrunk sizes are not valid.
        """
        try:
            return generator_config(model, self.width_shrink)
        except ConfigError as error:
            shrink, fitting = self.width_shrink, _fitting_shrink(model, self.width_shrink)
            hint = "" if fitting is None else f"; --width_shrink={fitting:g} does"
            raise ConfigError(f"width_shrink: {shrink} makes no generator: {error}{hint}") from None


def generator_config(
    config: ModelConfig, width_shrink: float = PretrainingConfig.width_shrink
) -> ModelConfig:
    """Return the configuration of ELECTRA's generator for ``config``.

    It is as deep as the discriminator and ``width_shrink`` as wide (section 3.1). Head size and
    embedding size stay: both models share the embedding table.
    """
    return config.replace(
        d_model=int(config.d_model * width_shrink),
        d_inner=int(config.d_inner * width_shrink),
        n_head=int(config.n_head * width_shrink),
    )


def _fitting_shrink(model: ModelConfig, shrink: float) -> float | None:
    """Return the factor closest to ``shrink`` that leaves a number of heads and valid sizes."""
    # Rounded up, since sizes are rounded down.
    factors = [math.ceil(1e6 * n / model.n_head) / 1e6 for n in range(1, model.n_head + 1)]
    for factor in sorted(factors, key=lambda factor: abs(factor - shrink)):
        try:
            generator_config(model, factor)
        except ConfigError:
            continue
        return factor
    return None


REGRESSION = "regression"
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
PROBLEM_TYPES = (REGRESSION, SINGLE_LABEL, MULTI_LABEL)


@dataclass(frozen=True)
class SavedHead:
    """What a checkpoint says about its classification head.

    Attributes:
        where: the checkpoint, for messages.
        num_outputs: number of outputs.
        labels: names of the classes in the order of the outputs; None if they are unknown.
        problem_type: one of :data:`PROBLEM_TYPES`; None if unknown.
    """

    where: str
    num_outputs: int
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the output is a number: so is a single output without problem type."""
        if self.problem_type is None:
            return self.num_outputs == 1
        return self.problem_type == REGRESSION


DEFAULT_ANSWERS = AnswerConfig()
DEFAULT_PRETRAINING = PretrainingConfig()
