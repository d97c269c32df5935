"""Settings of the files of predictions, and of ``predict.py``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

from funnel.config.inputs import CUSTOM_FORMATS
from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

TEXT = "txt"
ROW_FORMATS = ("csv", "jsonl")
INPUT_FORMATS = (TEXT, *CUSTOM_FORMATS)


@dataclass(frozen=True)
class PredictionSettings:
    """Form and content of prediction files."""

    prediction_format: str = setting(
        TEXT,
        "files of predictions: txt (as the original), or csv or jsonl with id, label and "
        "probability of every example",
        choices=(TEXT, *ROW_FORMATS),
        affects_result=False,
    )
    write_logits: bool = setting(
        False,
        "in csv or jsonl files, also logits and the probabilities of all labels (with txt: in a "
        "jsonl file of its own)",
        affects_result=False,
    )

    @property
    def row_format(self) -> str | None:
        """``csv`` or ``jsonl`` if a file of rows is asked for."""
        if self.prediction_format != TEXT:
            return self.prediction_format
        return "jsonl" if self.write_logits else None

    @property
    def writes_text(self) -> bool:
        """Whether the files of the original are asked for."""
        return self.prediction_format == TEXT

    def check(self, *, writes: bool, flag: str) -> None:
        """Refuse a form of files that are not written.

        Args:
            writes: whether the run writes predictions.
            flag: the flag without which it does not.

        Raises:
            ConfigError: names that flag.
        """
        if self.row_format is not None and not writes:
            raise ConfigError(f"--prediction_format and --write_logits go with --{flag}")


@dataclass(frozen=True)
class InputFileSettings:
    """A file of inputs to predict: its form and its columns."""

    input_format: str | None = setting(
        None,
        "form of the input: default: its suffix; of the standard input: txt, a text per line, a "
        "tab between two texts",
        choices=INPUT_FORMATS,
    )
    text_column: str | None = setting(
        None, "name or 0-based position of the text (default: text), or of the question (question)"
    )
    text_b_column: str | None = setting(
        None, "second text of pairs (default: none), or the context of a question (context)"
    )
    options_column: str = setting(
        "options", "multiple choice: list of options, in csv and tsv JSON"
    )
    id_column: str | None = setting(None, "names the rows of the output; default: their index")
    header: bool = setting(True, "read column names from the first line")
    delimiter: str | None = setting(None, "one character; default: tab or comma")
    encoding: str = setting("utf-8", "of the input, as Python names it: latin-1, utf-16, ...")
    skip_invalid: bool = setting(
        False, "leave out and count lines that cannot be read; default: stop at the first"
    )


@dataclass(frozen=True)
class PredictorConfig:
    """How a finished model predicts; None leaves a setting to the files of the model."""

    batch_size: int | None = setting(
        None, "sequences computed at a time; default: short ones more than long ones"
    )
    max_length: int | None = setting(
        None, "tokens per sequence; default: as in training if a run_config.json says so, else 512"
    )
    write_logits: bool = setting(False, "also logits and the probabilities of all labels")
    threshold: float = setting(0.5, "several labels: probability from which one holds")
    na_threshold: float | None = setting(
        None, "question answering: no answer where its score exceeds this; default: always answer"
    )
    max_query_length: int | None = setting(
        None, "question answering: first tokens of a question; default: as in training, else 64"
    )
    doc_stride: int | None = setting(
        None, "question answering: tokens between two windows; default: as in training, else 128"
    )

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("batch_size", "max_query_length", "doc_stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be at least 1")
        if self.max_length is not None and self.max_length < 8:
            raise ConfigError(f"max_length={self.max_length}: must be at least 8")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold:g}: must be from 0 to 1")
        if self.na_threshold is not None and math.isnan(self.na_threshold):
            raise ConfigError("na_threshold=nan: must be a number")

    def _check_types(self) -> None:
        # The class Predictor passes on its caller's values, a command line only parsed ones.
        for part in fields(self):
            value, kind = getattr(self, part.name), str(part.type)
            if value is None and "None" in kind:
                continue
            is_bool = isinstance(value, bool)
            is_right = {
                "bool": is_bool,
                "int": isinstance(value, Integral) and not is_bool,
                "float": isinstance(value, Real) and not is_bool,
            }
            wanted = kind.split(" | ")[0]
            if not is_right[wanted]:
                raise ConfigError(f"{part.name}={value!r}: should be of type {wanted}")
