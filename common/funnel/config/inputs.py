"""Settings of text inputs: tokenizer, segment ids, RACE sequences, columns of the user's files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields

from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError

TOKENIZER_KINDS = ("word_piece", "sent_piece")
_RACE_OTHER_TOKENS = 4  # three special symbols and a token of the article
CUSTOM_FORMATS = ("tsv", "csv", "jsonl", "json", "parquet")


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

    def request(
        self,
        given: Collection[str] = (),
        segments: SegmentIds | None = None,
        keep_accents: bool = False,
    ) -> TokenizerRequest:
        """Return what the user asked for; a default that no flag states is no request.

        Args:
            given: names of the flags on the command line.
            segments: segment ids of the program.
            keep_accents: the program's flag.
        """
        default = type(self)()
        segments = segments or SegmentIds()
        is_kind = "tokenizer_type" in given or self.tokenizer_type != default.tokenizer_type
        is_case = bool({"uncased", "cased"} & set(given)) or self.uncased != default.uncased
        is_accents = "keep_accents" in given or keep_accents
        return TokenizerRequest(
            self.tokenizer_path or "",
            self.tokenizer_type if is_kind else None,
            self.uncased if is_case else None,
            keep_accents if is_accents else None,
            segments,
            tuple(
                item.name
                for item in fields(segments)
                if SEGMENT_FLAGS[item.name] in given or getattr(segments, item.name) != item.default
            ),
        )


@dataclass(frozen=True)
class SegmentIds:
    """Segment id of each part of a sequence."""

    cls: int = setting(2, "segment id of [CLS]")
    a: int = setting(0, "segment id of the first text")
    b: int = setting(1, "segment id of the second text")
    pad: int = setting(0, "segment id of padding")


SEGMENT_FLAGS = {"cls": "seg_id_cls", "a": "seg_id_a", "b": "seg_id_b", "pad": "seg_id_pad"}


@dataclass(frozen=True)
class TokenizerRequest:
    """The tokenizer a user asks for; None leaves a setting to the files of the model.

    Attributes:
        path: vocabulary; empty for that of the model.
        kind: ``word_piece`` or ``sent_piece``.
        uncased: lower-case text.
        keep_accents: SentencePiece only: keep accents.
        segments: segment ids where the model's files record none.
        given_segments: those of them that the user gave.
    """

    path: str = ""
    kind: str | None = None
    uncased: bool | None = None
    keep_accents: bool | None = None
    segments: SegmentIds = field(default_factory=SegmentIds)
    given_segments: tuple[str, ...] = ()


@dataclass(frozen=True)
class RaceConfig:
    """Sequences of RACE: question and option are segment ``a``, the article is ``b``.

    The default of ``max_qa_length`` is a quarter of ``max_seq_length`` where that is so short that
    128 tokens leave no room for the article.
    """

    max_seq_length: int = setting(512, "tokens per sequence, special symbols included")
    max_qa_length: int = setting(
        128, "last tokens of question and option kept; if max_length is below 132, a quarter of it"
    )
    segments: SegmentIds = group("", SegmentIds, names=SEGMENT_FLAGS)

    def __post_init__(self) -> None:
        if self.max_qa_length < 1:
            raise ConfigError(f"max_qa_length={self.max_qa_length}: must be at least 1")
        least = self.max_qa_length + _RACE_OTHER_TOKENS
        if self.max_seq_length < least and self.max_qa_length == type(self).max_qa_length:
            object.__setattr__(self, "max_qa_length", max(1, self.max_seq_length // 4))
            least = self.max_qa_length + _RACE_OTHER_TOKENS
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
    id_column: str | None = setting(
        None,
        "names the examples in csv and jsonl files of predictions; default: their index",
        affects_result=False,
    )
    labels: str | None = setting(
        None,
        "comma list in the order of ids, names with commas quoted ('\"yes, sir\",no'), or a JSON "
        'list (\'["yes, sir", "no"]\'); default: read from the data',
    )
    regression: bool = setting(False, "the label is a number")
    multi_label: bool = setting(False, "several labels can hold for a text, or none")
    label_separator: str = setting(
        "|", "with multi_label, what separates labels in a cell that is no JSON list"
    )
    train_file: str | None = setting(None, "default: train.<format> in data_dir")
    dev_file: str | None = setting(None, "default: dev.<format>")
    test_file: str | None = setting(None, "default: test.<format>")
    header: bool = setting(True, "read column names from the first line")
    delimiter: str | None = setting(None, "one character; default: tab or comma")
    encoding: str = setting("utf-8", "of the files, as Python names it: latin-1, utf-16, ...")
    metric: str | None = setting(None, "main metric; default: accuracy, or pearson_spearman")
