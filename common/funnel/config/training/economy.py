"""Settings that make fine-tuning cheaper: frozen parts, early stopping, a held-out dev set."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class EconomySettings:
    """What is trained, for how long, and what chooses the best model.

    The defaults are None, so that runs from before these settings count as the same runs.
    """

    freeze: str | None = setting(
        None,
        "new: comma list of parts that are not trained: embeddings, encoder, decoder, encoder.3, "
        "encoder.0-5",
    )
    patience: int | None = setting(
        None, "new: end training after so many evaluations without a better score"
    )
    dev_fraction: float | None = setting(
        None, "new: hold out this share of the training data as dev data, instead of the dev file"
    )

    def __post_init__(self) -> None:
        check_patience(self.patience)


def check_patience(patience: int | None) -> None:
    """Refuse a number of evaluations below 1.

    Raises:
        ConfigError: names the flag.
    """
    if patience is not None and patience < 1:
        raise ConfigError(f"--patience={patience}: must be at least 1")
