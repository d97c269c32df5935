"""Settings of the ``predict.py`` of both backends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from funnel.config.inputs import TokenizerSettings
from funnel.config.predictions import (
    INPUT_FORMATS,
    ROW_FORMATS,
    TEXT,
    InputFileSettings,
    PredictorConfig,
)
from funnel.config.settings import group, setting
from funnel.utils.compressed import SUFFIXES
from funnel.utils.errors import ConfigError
from funnel.utils.json_files import read_json_object
from funnel.utils.run_directory import BEST_RESULT

if TYPE_CHECKING:
    from funnel.inference.engine import Engine

logger = logging.getLogger(__name__)

# Forms whose names an output may have without --format: a text file holds JSON lines.
_WRITTEN = (*ROW_FORMATS, TEXT)


@dataclass(frozen=True)
class PredictFiles:
    """Model, input and output."""

    model: str = setting(MISSING, "directory of a finished model, or of the run that made it")
    input: str = setting(MISSING, "file of inputs; -: the standard input")
    output: str = setting(MISSING, "file to write; -: the standard output")
    format: str | None = setting(
        None, "csv or jsonl; default: the suffix of output, else jsonl", choices=ROW_FORMATS
    )

    @property
    def output_format(self) -> str:
        """``csv`` or ``jsonl``."""
        suffix = Path(self.output).suffix.lower().removeprefix(".")
        return self.format or (suffix if suffix in ROW_FORMATS else "jsonl")


@dataclass(frozen=True)
class PredictSettings:
    """All settings that both programs have; ``given`` are the flags on the command line."""

    given: frozenset[str] = frozenset()
    files: PredictFiles = group("files", PredictFiles)
    columns: InputFileSettings = group(
        "input", InputFileSettings, names={"header": "not no_header"}
    )
    predictor: PredictorConfig = group("prediction", PredictorConfig)
    tokenizer: TokenizerSettings = group("text", TokenizerSettings, names={"uncased": "not cased"})

    def check(self) -> None:
        """Refuse files that cannot work.

        Raises:
            ConfigError: the output is the input, under whatever name, a directory, or has the
            name of a form that is not written.
        """
        source, target = self.files.input, self.files.output
        if target == "-":
            return
        suffix = Path(target).suffix.lower()
        others = {f".{name}" for name in INPUT_FORMATS} - {f".{name}" for name in _WRITTEN}
        if suffix in SUFFIXES or (suffix in others and not self.files.format):
            raise ConfigError(
                f"--output={target}: predictions are csv or jsonl, not compressed; name the file "
                "so, or choose with --format"
            )
        if Path(target).is_dir():
            raise ConfigError(f"--output={target}: is a directory")
        is_file = source != "-" and Path(source).exists() and Path(target).exists()
        if is_file and Path(target).samefile(source):
            raise ConfigError(f"--output={target}: is the input")


def find_model(path: str) -> str:
    """Return the directory of the weights, or the checkpoint: of a run, its best model."""
    folder = Path(path)
    best, record = folder / "best", folder / BEST_RESULT
    if best.is_dir() and not (folder / "config.json").is_file():
        return str(best)
    if record.is_file():  # TensorFlow's checkpoints are all in one directory
        name = read_json_object(record).get("checkpoint")
        if isinstance(name, str) and (folder / f"{name}.index").is_file():
            return str(folder / name)
    return path


def predict_file(settings: PredictSettings, load: Callable[[], Engine]) -> None:
    """Write the predictions for a file of inputs.

    Args:
        settings: those of the program.
        load: loads the model.

    Raises:
        FunnelError: a file cannot be read or written, or does not fit the model.
    """
    # NumPy, which --help does without.
    from funnel.inference.files import open_rows
    from funnel.inference.input_files import InputFile, InvalidLines
    from funnel.inference.rows import TOKEN_CLASSIFICATION

    settings.check()
    files, columns = settings.files, settings.columns
    if files.input != "-" and not Path(files.input).is_file():
        raise ConfigError(f"--input={files.input}: no such file")
    engine = load()
    invalid = InvalidLines(columns.skip_invalid)
    source = InputFile(files.input, columns, engine.form.problem_type, invalid)
    more = ["words"] if engine.form.problem_type == TOKEN_CLASSIFICATION else []
    begin = time.perf_counter()
    with open_rows(files.output, files.output_format, engine.form, more) as writer:
        writer.write(engine.rows(source))
        if not writer.count and not invalid.count:
            raise ConfigError(f"--input={files.input}: holds no input")
    engine.log_counts(files.input)
    seconds = max(time.perf_counter() - begin, 1e-9)
    rate = writer.count / seconds
    logger.info("%s: %d rows, %.0f a second", files.output, writer.count, rate)
    if invalid.count:
        logger.warning("%s: %d invalid lines left out", files.input, invalid.count)
