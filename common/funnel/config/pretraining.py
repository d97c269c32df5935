"""Settings of pretraining data: text to records, order of records, choice of targets."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.inputs import SEGMENT_FLAGS, SegmentIds
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError

SPLITS = ("train", "dev", "test")
SAMPLE_STRATEGIES = ("single_token", "whole_word", "token_span", "word_span")
SPECIAL_TOKENS = 3  # [CLS] and two [SEP] in every example
TARGET_SHARE = 85 / 512  # of the tokens of a record, as in the reference
MIN_SEQ_LEN = SPECIAL_TOKENS + 2  # room for one token on either side


@dataclass(frozen=True)
class CorpusConfig:
    """Text files and the pretraining examples made of them.

    ``input_glob`` takes ``**`` for any number of directories. ``split`` and ``pass_id`` are part of
    the file names, ``pass_id`` also of the seed.
    """

    input_glob: str = setting("data/example/*.txt", "text files: one sentence per line")
    save_dir: str = setting("proc_data/example", "output directory")
    seq_len: int = setting(512, "tokens per example, special symbols included")
    split: str = setting("train", "split: part of the file names", choices=SPLITS)
    pass_id: int = setting(0, "pass over the text: other passes pair other segments")
    num_task: int = setting(1, "tasks among which the files are divided")
    min_doc_len: int = setting(1, "leave out documents of fewer tokens")
    use_all_text: bool = setting(
        True, "make further examples of the text that pairing cuts off; False: as the original"
    )
    segments: SegmentIds = group("ids", SegmentIds, names=SEGMENT_FLAGS)

    def __post_init__(self) -> None:
        least = {"seq_len": MIN_SEQ_LEN, "pass_id": 0, "num_task": 1, "min_doc_len": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {bound}")


@dataclass(frozen=True)
class DatasetConfig:
    """Order of the records.

    Without ``shuffle`` the files are read in their order, in every epoch. ``interleave`` is the
    number of distant places of the files that fill the shuffle buffer. A skipped corrupt record is
    replaced by the next good one of the stream, so that every batch is full; without
    ``skip_corrupt`` it is an error. ``seed`` decides order and masks.
    """

    seed: int = 0
    shuffle: bool = True
    shuffle_buffer: int = setting(
        8192, "records among which the order is random", aliases=("shuffle_window",)
    )
    interleave: int = 16
    skip_corrupt: bool = setting(
        False,
        "skip corrupt records, with a warning",
        aliases=("skip_damaged",),
        affects_result=False,
    )

    def __post_init__(self) -> None:
        if self.interleave < 1:
            raise ConfigError(f"interleave={self.interleave}: must be at least 1")
        if self.shuffle_buffer < self.interleave:
            raise ConfigError(
                f"shuffle_buffer={self.shuffle_buffer}: must be at least interleave, "
                f"{self.interleave}"
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must not be negative")


@dataclass(frozen=True)
class TargetSettings:
    """Choice of the targets, and what replaces them in the input.

    The fields have the names of those of :class:`funnel.pretraining.masking.MaskingConfig`.
    """

    num_predict: int | None = setting(None, "targets per record; default: 85 of 512 tokens")
    sample_strategy: str = setting(
        "single_token", "how targets are chosen", choices=SAMPLE_STRATEGIES
    )
    leak_ratio: float = setting(0.1, "share of targets left unchanged")
    rand_ratio: float = setting(0.1, "share of targets replaced by a random token")
    min_tok: int = setting(1, "shortest span of tokens")
    max_tok: int = setting(5, "longest span of tokens")
    min_word: int = setting(1, "shortest span of words")
    max_word: int = setting(5, "longest span of words")

    def count(self, seq_len: int) -> int:
        """Return the targets in ``seq_len`` tokens, by default the reference's share."""
        default = max(1, round(seq_len * TARGET_SHARE))
        return default if self.num_predict is None else self.num_predict
