"""Settings of the loss of classification, and of how often classes are seen."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.heads import REGRESSION, SINGLE_LABEL
from funnel.config.settings import setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class LossSettings:
    """Weights and smoothing of labels in training; evaluations report the plain loss."""

    class_weights: str | None = setting(
        None,
        "factor on the loss of each label: balanced (rare labels count more), or a JSON object "
        "('{\"yes\": 2.0}', others 1)",
    )
    label_smoothing: float = setting(
        0.0, "share of the target that is spread evenly over the labels"
    )
    balanced_sampling: bool = setting(
        False, "repeat training examples of rare labels until all are equally frequent"
    )

    def check(self, problem_type: str) -> None:
        """Refuse a setting that is out of range or has no meaning for a problem type.

        Raises:
            ConfigError: names the flag.
        """
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(
                f"--label_smoothing={self.label_smoothing}: should be below 1, from 0"
            )
        given = [
            name
            for name in ("class_weights", "label_smoothing", "balanced_sampling")
            if getattr(self, name)
        ]
        if given and problem_type == REGRESSION:
            raise ConfigError(f"--{given[0]}: goes with labels, but the task is {problem_type}")
        if self.balanced_sampling and problem_type != SINGLE_LABEL:
            raise ConfigError(
                f"--balanced_sampling: goes with one label per text, but the task is "
                f"{problem_type}; --class_weights=balanced weighs the labels instead"
            )


@dataclass(frozen=True)
class LabelLoss:
    """The loss of a classification head.

    One label: ``w[y] ((1 - s) CE(y) + s mean_c CE(c))`` with weights w and smoothing s. Several
    labels: the mean over the labels of binary cross entropies, whose part for a label that holds
    is weighted by w, with targets ``(1 - s) y + s / 2``. The loss of a batch is the mean over its
    examples, not divided by their weights, so it does not depend on how a step is divided.

    Attributes:
        weights: one per label; empty: all 1.
        smoothing: s.
    """

    weights: tuple[float, ...] = ()
    smoothing: float = 0.0


PLAIN_LOSS = LabelLoss()
