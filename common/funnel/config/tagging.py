"""Settings of token classification that both backends share."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.inputs import SEGMENT_FLAGS, SegmentIds
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError

TAGGING_FORMATS = ("conll", "jsonl")
TAG_SCHEMES = ("auto", "iob1", "iob2", "iobes", "none")
TAGGING_METRICS = ("f1", "strict_f1", "accuracy")


@dataclass(frozen=True)
class TaggingFiles:
    """Files of tagged sentences and their columns, as given on a command line."""

    text_column: str | None = setting(
        None, "conll: 0-based column of the word (default 0); jsonl: key (default tokens or words)"
    )
    label_column: str | None = setting(
        None,
        "conll: column of the tag, -1: the last (default); jsonl: key (default labels, tags, "
        "ner_tags or pos_tags)",
    )
    labels: str | None = setting(
        None, "comma list of the tags in the order of ids; default: read from the data"
    )
    scheme: str = setting("auto", "how tags mark entities; none: plain tags", choices=TAG_SCHEMES)
    metric: str | None = setting(
        None,
        "main metric: f1 of the entities (default where tags mark some), strict_f1 or accuracy",
        choices=TAGGING_METRICS,
    )
    train_file: str | None = setting(None, "default: train.<format> in data_dir (conll: or .txt)")
    dev_file: str | None = setting(None, "default: dev.<format> (or valid)")
    test_file: str | None = setting(None, "default: test.<format>")


@dataclass(frozen=True)
class TaggingWindows:
    """How sentences become sequences.

    The default of ``overlap`` is a quarter of ``max_length`` where that is so short that 32 tokens
    do not fit.
    """

    max_length: int = setting(
        128,
        "tokens per sequence; longer sentences are cut into windows; without training, the length "
        "that the run of the model recorded",
    )
    overlap: int = setting(
        32,
        "tokens that neighbouring windows of a long sentence share at most; if max_length is below "
        "35, a quarter of it",
    )
    segments: SegmentIds = group("", SegmentIds, names=SEGMENT_FLAGS)

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ConfigError(f"max_length={self.max_length}: at least 3 are needed for a sequence")
        if self.overlap < 0:
            raise ConfigError(f"overlap={self.overlap}: must not be negative")
        if self.overlap > self.max_length - 3 and self.overlap == type(self).overlap:
            object.__setattr__(self, "overlap", min(self.max_length // 4, self.max_length - 3))
        if self.overlap > self.max_length - 3:
            raise ConfigError(
                f"overlap={self.overlap}: must be at most max_length - 3 = {self.max_length - 3}"
            )


@dataclass(frozen=True)
class DecoderSettings:
    """What happens if the initial checkpoint has no decoder, which tags are predicted from."""

    random_decoder: bool = setting(
        False, "let a checkpoint without decoder get one of random weights, which trains slowly"
    )
