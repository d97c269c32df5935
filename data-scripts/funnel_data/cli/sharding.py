"""Flags and the run that ``prepare_text.py`` and ``prepare_wikipedia.py`` have in common."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from funnel.utils.errors import ConfigError
from funnel.utils.logging import progress
from funnel.utils.processes import count_cores
from funnel_data.corpora.sharding import (
    OutputConfig,
    Reader,
    ShardStats,
    TextShard,
    check_manifest,
    select_task_shards,
    write_shards,
)

logger = logging.getLogger(__name__)


def add_sharding_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that divide the work among processes and tasks."""
    flag = parser.add_argument_group("work").add_argument
    flag("--num_proc", type=int, default=count_cores(), help="processes (default: one per core)")
    flag("--shard_mb", type=float, default=32, help="MB of input per file of text (%(default)s)")
    flag("--num_task", type=int, default=1, help="number of tasks of an array job (%(default)s)")
    flag("--task", type=int, default=0, help="the task to run (%(default)s)")


def shard_bytes(flags: argparse.Namespace) -> int:
    """Return --shard_mb in bytes, after checking the numeric flags.

    Raises:
        ConfigError: a flag is out of range.
    """
    for name, minimum in (("num_proc", 1), ("num_task", 1), ("min_characters", 0)):
        if getattr(flags, name) < minimum:
            raise ConfigError(f"--{name}={getattr(flags, name)}: it must be at least {minimum}")
    if not flags.shard_mb >= 0.001:  # also true of NaN
        raise ConfigError(f"--shard_mb={flags.shard_mb}: it must be at least 0.001")
    return int(flags.shard_mb * 1e6)


def run_shards(
    shards: Sequence[TextShard],
    reader: Reader,
    settings: dict[str, object],
    flags: argparse.Namespace,
) -> None:
    """Write the missing files of this task, log one line for each, and print a summary."""
    output = OutputConfig(flags.output_dir, flags.min_characters, flags.unique_lines)
    settings |= {"min_characters": output.min_characters, "unique_lines": output.unique_lines}
    selected = select_task_shards(shards, flags.task, flags.num_task)
    check_manifest(output.folder, settings, shards)
    begin = time.perf_counter()
    written: list[ShardStats] = []
    results = write_shards(selected, reader, output, flags.num_proc)
    for stats in progress(results, "files", total=len(selected)):
        logger.info(
            "%s: %d documents (%d left out), %d sentences, %.1f MB of text, %.1f s",
            *(stats.path, stats.documents, stats.left_out, stats.sentences),
            *(stats.text_bytes / 1e6, stats.seconds),
        )
        written.append(stats)
    print(
        f"{output.folder}: {sum(stats.documents for stats in written):,} documents, "
        f"{sum(stats.sentences for stats in written):,} sentences, "
        f"{sum(stats.text_bytes for stats in written) / 1e6:.1f} MB of text from "
        f"{sum(stats.input_bytes for stats in written) / 1e6:.1f} MB of input in "
        f"{time.perf_counter() - begin:.1f} s; {len(selected)} of {len(shards)} files are there"
    )
