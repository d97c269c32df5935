"""Text to record files as the programs do it: which tasks, one line for each, and a summary."""

from __future__ import annotations

import logging
import time

from funnel.pretraining.create_records import CorpusConfig, create_all_records
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError

logger = logging.getLogger(__name__)


def choose_tasks(task: int, num_task: int, num_proc: int | None) -> list[int]:
    """The tasks to run: ``task``, or all of them if ``num_proc`` says how many at a time.

    Raises:
        ConfigError: both are given, or no process is to run.
    """
    if num_proc is None:
        return [task]
    if num_proc < 1 or task:
        raise ConfigError("--num_proc runs all tasks: it needs at least 1 process and no --task")
    return list(range(num_task))


def write_corpus(
    config: CorpusConfig, tasks: list[int], tokenizer: Tokenizer, num_proc: int = 1
) -> str:
    """Run the tasks, log each when it ends, and return a line that sums up.

    Raises:
        FunnelError: as :func:`funnel.pretraining.create_records.create_all_records`.
    """
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
