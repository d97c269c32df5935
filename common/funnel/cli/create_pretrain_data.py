r"""Cut text into pretraining records: TFRecord files that PyTorch and TensorFlow programs read.

Text files hold one sentence per line and an empty line between documents. One task takes every
num_task-th file and writes one record file and its description. Another --pass_id pairs the same
text differently. Equal flags and text give equal bytes.

    {program} --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512 --num_task=8 --num_proc=4
    {program} --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512 --num_task=8 --task=0    # one task of eight
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from funnel.cli.absl_logging import AbslLogging
from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel.config.inputs import TokenizerSettings
from funnel.config.pretraining import CorpusConfig
from funnel.config.settings import group, setting
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging

if TYPE_CHECKING:
    from funnel.pretraining.create_records import RecordShard

logger = logging.getLogger(__name__)

# Shares of all tokens beyond which there is a warning.
_LEAST_USED = 0.99
_MOST_UNKNOWN = 0.01

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
    absl: AbslLogging = group("messages", AbslLogging)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the records that a command line (default: this process's) asks for.

    Booleans are given as absl takes them, so that the command lines of both backends are the same.
    """
    settings = parse_settings(CreateDataSettings, __doc__, argv, absl_booleans=True)
    configure_logging(settings.absl.verbose, quiet=settings.absl.quiet)
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

    begin, total = time.perf_counter(), _Totals()
    for shard in create_all_records(config, tasks, tokenizer, num_proc):
        logger.info(
            "%s: %d examples from %d documents, %d tokens (%d documents left out); %d of the "
            "examples are of text that the others cut off",
            *(shard.path, shard.num_example, shard.documents, shard.tokens, shard.left_out),
            shard.repeated,
        )
        total.add(shard)
    total.warn(tokenizer)
    return f"{config.save_dir}: {total.describe(config, time.perf_counter() - begin)}"


@dataclass
class _Totals:
    """Sums over the tasks."""

    examples: int = 0
    text_bytes: int = 0
    tokens: int = 0
    unused: int = 0
    unknown: int = 0

    def add(self, shard: RecordShard) -> None:
        """Add the result of a task."""
        self.examples += shard.num_example
        self.text_bytes += shard.text_bytes
        self.tokens += shard.total_tokens
        self.unused += shard.unused
        self.unknown += shard.unknown

    @property
    def used_share(self) -> float:
        """Share of the tokens that are in an example."""
        return 1 - self.unused / self.tokens

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are not in the vocabulary."""
        return self.unknown / self.tokens

    def warn(self, tokenizer: Tokenizer) -> None:
        """Log warnings about text that is not used or not understood."""
        if self.used_share < _LEAST_USED:
            logger.warning(
                "only %.1f %% of the text is in examples: --use_all_text makes examples of the "
                "rest, except for documents shorter than --min_doc_len",
                100 * self.used_share,
            )
        if self.unknown_share > _MOST_UNKNOWN:
            logger.warning(
                "%.1f %% of all tokens are unknown to %s: it was probably made for text of another "
                "language, case or script; build_vocab.py makes one for this text",
                *(100 * self.unknown_share, tokenizer.path),
            )

    def describe(self, config: CorpusConfig, seconds: float) -> str:
        """Return a line with all totals."""
        megabytes = self.text_bytes / 1e6
        return (
            f"{self.examples:,} examples of {config.seq_len} tokens, from {megabytes:.1f} MB of "
            f"text in {seconds:.1f} s ({megabytes / seconds:.2f} MB/s); "
            f"{100 * self.used_share:.1f} % of the text is in examples, "
            f"{100 * self.unknown_share:.2f} % of its tokens are unknown"
        )


command = entry_point(main)
