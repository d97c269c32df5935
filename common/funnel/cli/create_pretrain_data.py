"""``create_pretrain_data.py`` of both backends: text files to pretraining records."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass

from funnel.cli.flags import parse_settings
from funnel.config.inputs import TokenizerSettings
from funnel.config.pretraining import CorpusConfig
from funnel.config.settings import group, setting
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging

logger = logging.getLogger(__name__)

_CHECKED = "if given, must be that of the tokenizer"


@dataclass(frozen=True)
class TaskSettings:
    """The tasks to run."""

    task: int = setting(0, "the task to run")
    num_proc: int | None = setting(None, "run all tasks instead, this many at a time")


@dataclass(frozen=True)
class VocabularyCheck:
    """Flags of the original that the tokenizer decides; other values are refused."""

    unk_id: int | None = setting(None, _CHECKED)
    bos_id: int | None = setting(None, _CHECKED)
    eos_id: int | None = setting(None, _CHECKED)
    cls_id: int | None = setting(None, _CHECKED)
    sep_id: int | None = setting(None, _CHECKED)
    pad_id: int | None = setting(None, _CHECKED)
    mask_id: int | None = setting(None, _CHECKED)
    eod_id: int | None = setting(None, _CHECKED)
    eop_id: int | None = setting(None, _CHECKED)
    vocab_size: int | None = setting(None, _CHECKED)

    def check(self, tokenizer: Tokenizer) -> None:
        """Compare the values given with those of the tokenizer.

        Raises:
            ConfigError: one of them differs.
        """
        for name, given in dataclasses.asdict(self).items():
            source = tokenizer if name == "vocab_size" else tokenizer.special
            actual = getattr(source, name)
            if given is not None and given != actual:
                raise ConfigError(f"--{name}={given}: it is {actual} in {tokenizer.path}")


@dataclass(frozen=True)
class CreateDataSettings:
    """All settings of the program; ``given`` are the flags on the command line."""

    given: frozenset[str] = frozenset()
    corpus: CorpusConfig = group("text to records", CorpusConfig)
    tasks: TaskSettings = group("text to records", TaskSettings)
    tokenizer: TokenizerSettings = group(
        "text to records", TokenizerSettings, defaults={"tokenizer_path": ""}
    )
    vocabulary: VocabularyCheck = group("ids", VocabularyCheck)


def main(description: str | None) -> None:
    """Write the records that the command line asks for.

    Booleans are given as absl takes them, so that the command lines of both backends are the same.
    """
    settings = parse_settings(CreateDataSettings, description, absl_booleans=True)
    configure_logging()
    run(settings)


def run(settings: CreateDataSettings) -> None:
    """Write the records that the settings describe, and print the totals."""
    flags = settings.tasks
    tasks = choose_tasks(flags.task, settings.corpus.num_task, flags.num_proc)
    tokenizer = open_vocabulary(settings)
    settings.vocabulary.check(tokenizer)
    corpus = dataclasses.replace(settings.corpus, segments=tokenizer.segments)
    print(write_corpus(corpus, tasks, tokenizer, flags.num_proc or 1))


def open_vocabulary(settings: CreateDataSettings) -> Tokenizer:
    """Open the vocabulary, with the settings that are recorded next to it.

    Raises:
        ConfigError: no path is given, or a flag contradicts what is recorded.
    """
    from funnel.tokenization.choice import open_tokenizer

    if not settings.tokenizer.tokenizer_path:
        raise ConfigError("--tokenizer_path is needed: a vocab.txt or SentencePiece model")
    return open_tokenizer(settings.tokenizer.request(settings.given, settings.corpus.segments))


def choose_tasks(task: int, num_task: int, num_proc: int | None) -> list[int]:
    """Return ``task``, or all tasks if ``num_proc`` of them are to run at a time.

    Raises:
        ConfigError: both are given, or ``num_proc`` is below 1.
    """
    if num_proc is None:
        return [task]
    if num_proc < 1 or task:
        raise ConfigError("--num_proc runs all tasks: it needs at least 1 process and no --task")
    return list(range(num_task))


def write_corpus(
    config: CorpusConfig, tasks: list[int], tokenizer: Tokenizer, num_proc: int = 1
) -> str:
    """Run the tasks, log each when it ends, and return a line with the totals.

    Raises:
        FunnelError: as :func:`funnel.pretraining.create_records.create_all_records`.
    """
    # Imports NumPy, which --help does not need.
    from funnel.pretraining.create_records import create_all_records

    begin, examples, megabytes = time.perf_counter(), 0, 0.0
    for shard in create_all_records(config, tasks, tokenizer, num_proc):
        logger.info(
            "%s: %d examples from %d documents, %d tokens (%d documents left out)",
            *(shard.path, shard.num_example, shard.documents, shard.tokens, shard.left_out),
        )
        examples += shard.num_example
        megabytes += shard.text_bytes / 1e6
    seconds = time.perf_counter() - begin
    return (
        f"{config.save_dir}: {examples:,} examples of {config.seq_len} tokens, from "
        f"{megabytes:.1f} MB of text in {seconds:.1f} s ({megabytes / seconds:.2f} MB/s)"
    )
