"""Raw corpora to text files with one sentence per line and an empty line after each document.

The input is divided into shards before work starts: a shard is a few byte ranges of the input and
becomes one text file, which is written under a temporary name and renamed. A file that has its
final name is complete. An interrupted run therefore continues with the missing files, any number of
processes and machines can share the work, and the bytes do not depend on how many did.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TextIO

from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json
from funnel.utils.processes import run_in_processes

logger = logging.getLogger(__name__)

MANIFEST_NAME = "prepared.json"


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``start`` to ``end`` (exclusive) of a file."""

    path: str
    start: int
    end: int


@dataclass(frozen=True)
class TextShard:
    """The name of an output file, and the input it is made from."""

    name: str
    ranges: tuple[ByteRange, ...]


class Reader(Protocol):
    """A source of documents. Must be picklable."""

    def read_documents(self, source: ByteRange) -> Iterator[list[str]]:
        """Yield the documents that begin in a byte range, each a list of sentences."""


@dataclass(frozen=True)
class OutputConfig:
    """Output folder and filters.

    Attributes:
        folder: folder of the text files.
        min_characters: documents with fewer characters are left out.
        unique_lines: leave out sentences that are already in the same file.
    """

    folder: str
    min_characters: int = 1
    unique_lines: bool = False


@dataclass(frozen=True)
class ShardStats:
    """Path and size of a shard that was written."""

    path: str
    documents: int
    left_out: int
    sentences: int
    text_bytes: int
    input_bytes: int
    seconds: float


def plan_shards(
    files: Sequence[str], name: str, shard_bytes: int, is_splittable: Callable[[str], bool]
) -> list[TextShard]:
    """Divide files into shards of about ``shard_bytes``, in order.

    Small files share a shard; a large one is split if ``is_splittable`` allows. Shards are named
    ``{name}.00000-of-00012.txt`` and so on.
    """
    groups: list[list[ByteRange]] = [[]]
    room = shard_bytes
    for path in files:
        size = os.path.getsize(path)
        if size > shard_bytes and is_splittable(path):
            count = math.ceil(size / shard_bytes)
            bounds = [size * number // count for number in range(count + 1)]
            groups += [[ByteRange(path, a, b)] for a, b in pairwise(bounds)]
            groups.append([])
            room = shard_bytes
            continue
        if size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(ByteRange(path, 0, size))
        room -= size
    filled = [tuple(group) for group in groups if group]
    total = len(filled)
    return [
        TextShard(f"{name}.{i:05d}-of-{total:05d}.txt", group) for i, group in enumerate(filled)
    ]


def check_manifest(folder: str, settings: Mapping[str, Any], shards: Sequence[TextShard]) -> None:
    """Write the manifest of a folder, or compare input and settings with an existing one.

    Raises:
        DataError: the folder holds text made from other input or with other settings.
        FunnelError: the manifest cannot be written.
    """
    # File names and sizes, not paths or times: work can continue on a copy of the input.
    work = [[os.path.basename(r.path), r.start, r.end] for shard in shards for r in shard.ranges]
    expected = dict(settings) | {
        "shards": len(shards),
        "input_sha256": hashlib.sha256(json.dumps(work).encode()).hexdigest(),
    }
    path = Path(folder, MANIFEST_NAME)
    if not path.exists():
        atomic_write_json(path, expected)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read; delete the folder to start again") from error
    for key, value in expected.items():
        if found.get(key) != value:
            raise DataError(
                f"{folder} holds text made with {key} {found.get(key)!r}, not {value!r} "
                f"(see {MANIFEST_NAME}); delete it or choose another folder"
            )


def select_task_shards(
    shards: Sequence[TextShard], task: int, num_task: int
) -> Sequence[TextShard]:
    """Return the shards of one task of an array job, none if there are more tasks than shards.

    Raises:
        ConfigError: there is no such task.
    """
    if not 0 <= task < num_task:
        raise ConfigError(f"--task={task}: of {num_task} tasks, it must be 0 to {num_task - 1}")
    return shards[task::num_task]


def write_shards(
    shards: Sequence[TextShard], reader: Reader, output: OutputConfig, num_proc: int
) -> Iterator[ShardStats]:
    """Write the shards whose files are missing, ``num_proc`` at a time; yield as they complete.

    Raises:
        DataError: the input is corrupt; complete files stay.
        FunnelError: a file cannot be written, or a process was killed.
    """
    missing = [shard for shard in shards if not Path(output.folder, shard.name).exists()]
    if len(missing) < len(shards):
        logger.info("%d of %d files are there already", len(shards) - len(missing), len(shards))
    calls = [(shard, reader, output) for shard in missing]
    if min(num_proc, len(calls)) <= 1:
        yield from (write_shard(*call) for call in calls)
    else:
        yield from run_in_processes(write_shard, calls, num_proc)


def write_shard(shard: TextShard, reader: Reader, output: OutputConfig) -> ShardStats:
    """Write one text file, which gets its name when it is complete."""
    begin = time.perf_counter()
    path = Path(output.folder, shard.name)
    documents = (document for source in shard.ranges for document in reader.read_documents(source))
    # JSON can hold lone surrogates, which UTF-8 cannot encode; errors="ignore" drops them.
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8", errors="ignore", newline="\n") as file:
            kept, left_out, sentences = _write_documents(file, documents, output)
        text_bytes = temporary.stat().st_size
    input_bytes = sum(source.end - source.start for source in shard.ranges)
    seconds = time.perf_counter() - begin
    return ShardStats(str(path), kept, left_out, sentences, text_bytes, input_bytes, seconds)


def _write_documents(
    file: TextIO, documents: Iterable[list[str]], output: OutputConfig
) -> tuple[int, int, int]:
    """Write documents; return how many, how many were left out, and the number of sentences."""
    kept = left_out = count = 0
    seen: set[bytes] = set()
    for document in documents:
        sentences = document
        if output.unique_lines:
            new = {d: s for s in document if (d := _digest(s)) not in seen}
            sentences = list(new.values())
        if not sentences or sum(map(len, sentences)) < output.min_characters:
            left_out += 1
            continue
        if output.unique_lines:
            seen.update(new)
        file.write("\n".join(sentences) + "\n\n")
        kept += 1
        count += len(sentences)
    return kept, left_out, count


def _digest(sentence: str) -> bytes:
    """Return a hash of a sentence; 8 bytes rule out collisions among the lines of one file."""
    return hashlib.blake2b(sentence.encode("utf-8", "ignore"), digest_size=8).digest()
