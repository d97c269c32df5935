"""Settings of text inputs: tokenizer, segment ids, RACE sequences, columns of the user's files."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError

TOKENIZER_KINDS = ("word_piece", "sent_piece")
CUSTOM_FORMATS = ("tsv", "csv", "jsonl")


@dataclass(frozen=True)
class TokenizerSettings:
    """The vocabulary and how text is normalized before it is split."""

    tokenizer_type: str = setting("word_piece", "kind of vocabulary", choices=TOKENIZER_KINDS)
    tokenizer_path: str | None = setting(
        None,
        "vocab.txt or SentencePiece model; default: that of the weights, if any",
        affects_result=False,
    )
    uncased: bool = setting(True, "lower-case and strip accents")


@dataclass(frozen=True)
class SegmentIds:
    """Segment id of each part of a sequence."""

    cls: int = setting(2, "segment id of [CLS]")
    a: int = setting(0, "segment id of the first text")
    b: int = setting(1, "segment id of the second text")
    pad: int = setting(0, "segment id of padding")


SEGMENT_FLAGS = {"cls": "seg_id_cls", "a": "seg_id_a", "b": "seg_id_b", "pad": "seg_id_pad"}


@dataclass(frozen=True)
class RaceConfig:
    """Sequences of RACE: question and option are segment ``a``, the article is ``b``."""

    max_seq_length: int = setting(512, "tokens per sequence, special symbols included")
    max_qa_length: int = setting(128, "last tokens of question and option kept")
    segments: SegmentIds = group("", SegmentIds, names=SEGMENT_FLAGS)

    def __post_init__(self) -> None:
        if self.max_qa_length < 1:
            raise ConfigError(f"max_qa_length={self.max_qa_length}: must be at least 1")
        least = self.max_qa_length + 4
        if self.max_seq_length < least:
            raise ConfigError(
                f"max_seq_length={self.max_seq_length}: at least {least} is needed for "
                f"max_qa_length={self.max_qa_length}, three special symbols and a token of the "
                "article"
            )


@dataclass(frozen=True)
class CustomTaskSettings:
    """Columns, labels and files of the user's own data, as given on a command line.

    :func:`funnel.tasks.custom.custom_task_config` makes a configuration of them.
    """

    text_column: str = setting("text", "name or 0-based position")
    text_b_column: str | None = setting(None, "second text of pairs")
    label_column: str = setting("label", "name or 0-based position")
    labels: str | None = setting(
        None, "comma list in the order of ids; default: read from the data"
    )
    regression: bool = setting(False, "the label is a number")
    train_file: str | None = setting(None, "default: train.<format> in data_dir")
    dev_file: str | None = setting(None, "default: dev.<format>")
    test_file: str | None = setting(None, "default: test.<format>")
    header: bool = setting(True, "read column names from the first line")
    delimiter: str | None = setting(None, "one character; default: tab or comma")
    metric: str | None = setting(None, "main metric; default: accuracy, or pearson_spearman")
