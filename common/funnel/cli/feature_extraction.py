"""Settings of the ``extract_features.py`` of both backends."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from funnel.config.extraction import OutputSettings
from funnel.config.inputs import TokenizerSettings
from funnel.config.settings import group, setting
from funnel.utils.compressed import SUFFIXES
from funnel.utils.errors import ConfigError

# Names that promise another form than NumPy's.
_OTHER_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet", ".pt", ".h5", *SUFFIXES)


@dataclass(frozen=True)
class FileSettings:
    """Model, input and output."""

    model: str = setting(MISSING, "checkpoint of any supported kind")
    text: str | None = setting(
        MISSING,
        "text file: one text per line, a tab between the two of a pair",
        exclusive="input",
    )
    ids: str | None = setting(
        MISSING,
        ".npz file with input_ids (token_type_ids, attention_mask)",
        exclusive="input",
    )
    output: str = setting(MISSING, ".npz file to write, or .npy for the vectors of one layer")

    def __post_init__(self) -> None:
        if Path(self.output).suffix.lower() in _OTHER_SUFFIXES:
            raise ConfigError(f"--output={self.output}: the file is an .npz or .npy; name it so")


@dataclass(frozen=True)
class SwitchSettings:
    """The configuration of the model and its run-time switches."""

    model_config: str | None = setting(None, "config file, if not in the directory of the weights")
    attn_type: str | None = setting(
        None, "implementation of relative attention", choices=("rel_shift", "factorized")
    )
    truncate_seq: bool | None = setting(
        None, "drop the last position before pooling (default)", negatable=True
    )


@dataclass(frozen=True)
class LengthSettings:
    """The length of texts."""

    max_length: int = setting(512, "tokens kept of a text")

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ConfigError(f"--max_length={self.max_length}: must be at least 3")


@dataclass(frozen=True)
class ComputeSettings:
    """Batches and device."""

    batch_size: int = setting(32, "sequences computed at a time")
    device_id: int = setting(0, "GPU to use; -1 for the CPU")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"--batch_size={self.batch_size}: must be at least 1")


@dataclass(frozen=True)
class ExtractionSettings:
    """All settings that both programs have; ``given`` are the flags on the command line."""

    given: frozenset[str] = frozenset()
    files: FileSettings = group("files", FileSettings)
    output: OutputSettings = group("files", OutputSettings)
    switches: SwitchSettings = group("model", SwitchSettings)
    tokenizer: TokenizerSettings = group("text", TokenizerSettings, names={"uncased": "not cased"})
    length: LengthSettings = group("text", LengthSettings)
    compute: ComputeSettings = group("run", ComputeSettings)
