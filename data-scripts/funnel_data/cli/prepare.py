"""What the programs that prepare corpora share: flags, and the report at the end."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence

from funnel.utils.errors import ConfigError
from funnel.utils.logging import progress
from funnel_data.corpora.sharding import (
    OutputConfig,
    Reader,
    TextShard,
    check_manifest,
    prepare,
    task_share,
)

logger = logging.getLogger(__name__)


def add_work_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("work").add_argument
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flag("--num_proc", type=int, default=cores, help="processes (default: one per core)")
    flag("--shard_mb", type=float, default=32, help="MB of input per file of text (%(default)s)")
    flag("--num_task", type=int, default=1, help="tasks the files are shared out to (%(default)s)")
    flag("--task", type=int, default=0, help="the one to run (%(default)s)")


def shard_bytes(flags: argparse.Namespace) -> int:
    """What --shard_mb means, and a check of the flags beside it."""
    for name, least in (("num_proc", 1), ("num_task", 1), ("min_characters", 0)):
        if getattr(flags, name) < least:
            raise ConfigError(f"--{name}={getattr(flags, name)}: it must be at least {least}")
    if not flags.shard_mb >= 0.001:
        raise ConfigError(f"--shard_mb={flags.shard_mb}: it must be at least 0.001")
    return int(flags.shard_mb * 1e6)


def run_shards(
    shards: Sequence[TextShard],
    reader: Reader,
    settings: dict[str, object],
    flags: argparse.Namespace,
) -> None:
    """Write the files of this task that are missing, and say what came of them."""
    output = OutputConfig(flags.output_dir, flags.min_characters, flags.unique_lines)
    settings |= {"min_characters": output.min_characters, "unique_lines": output.unique_lines}
    share = task_share(shards, flags.task, flags.num_task)
    check_manifest(output.folder, settings, shards)
    begin = time.perf_counter()
    reports = []
    work = prepare(share, reader, output, flags.num_proc)
    for report in progress(work, "files", total=len(share)):
        logger.info(
            "%s: %d documents (%d left out), %d sentences, %.1f MB of text, %.1f s",
            *(report.path, report.documents, report.left_out, report.sentences),
            *(report.text_bytes / 1e6, report.seconds),
        )
        reports.append(report)
    seconds = time.perf_counter() - begin
    read, written = (
        sum(getattr(report, name) for report in reports) / 1e6
        for name in ("input_bytes", "text_bytes")
    )
    print(
        f"{output.folder}: {sum(report.documents for report in reports):,} documents, "
        f"{sum(report.sentences for report in reports):,} sentences, {written:.1f} MB of text from "
        f"{read:.1f} MB of input in {seconds:.1f} s; {len(share)} of {len(shards)} files are there"
    )
