"""Raw corpora -> text files of one sentence per line and an empty line after each document.

The input is cut into shards before work starts, each a few ranges of bytes of its files, and each
becomes one file, written beside and renamed. What has its name is whole, so a run that was killed
goes on where it stopped, any number of processes or machines can share the work, and the bytes do
not depend on how many did.
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

SETTINGS_NAME = "prepared.json"


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``start`` to ``end`` (exclusive) of a file."""

    path: str
    start: int
    end: int


@dataclass(frozen=True)
class TextShard:
    """What becomes one file of text, and that file's name."""

    name: str
    parts: tuple[ByteRange, ...]


class Reader(Protocol):
    """Where documents come from. Must be picklable."""

    def documents(self, part: ByteRange) -> Iterator[list[str]]:
        """Yield the documents that begin in a part, each a list of sentences."""


@dataclass(frozen=True)
class OutputConfig:
    """Where text goes and what of it.

    Attributes:
        folder: folder of the files.
        min_characters: a document with fewer is left out.
        unique_lines: leave out a sentence that stood in the same file before.
    """

    folder: str
    min_characters: int = 1
    unique_lines: bool = False


@dataclass(frozen=True)
class ShardStats:
    """What came of one shard."""

    path: str
    documents: int
    left_out: int
    sentences: int
    text_bytes: int
    input_bytes: int
    seconds: float


def plan_shards(
    files: Sequence[str], name: str, shard_bytes: int, can_cut: Callable[[str], bool]
) -> list[TextShard]:
    """Divide files into shards of about ``shard_bytes``, in their order.

    Small files share a shard; a large one is cut where ``can_cut`` allows. Shards are called
    ``{name}.00000-of-00012.txt`` and so on.
    """
    groups: list[list[ByteRange]] = [[]]
    room = shard_bytes
    for path in files:
        size = os.path.getsize(path)
        if size > shard_bytes and can_cut(path):
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
    """Write down what the files of a folder are made of, or check that it is the same as before.

    Raises:
        DataError: the folder holds text made from other input or in another way.
        FunnelError: it cannot be written to.
    """
    # Names and ranges, not times: a copy of the same files goes on with the same work.
    work = json.dumps([[os.path.basename(p.path), p.start, p.end] for s in shards for p in s.parts])
    ours = dict(settings) | {
        "shards": len(shards),
        "input_sha256": hashlib.sha256(work.encode()).hexdigest(),
    }
    path = Path(folder, SETTINGS_NAME)
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read; delete the folder to begin anew") from error
        for key in ours:
            if found.get(key) != ours[key]:
                raise DataError(
                    f"{folder} holds text made with {key} {found.get(key)!r}, not {ours[key]!r} "
                    f"(see {SETTINGS_NAME}); delete it or choose another folder"
                )
        return
    atomic_write_json(path, ours)


def task_share(shards: Sequence[TextShard], task: int, num_task: int) -> Sequence[TextShard]:
    """The shards of one task of an array job; none, if there are more tasks than shards.

    Raises:
        ConfigError: no such task.
    """
    if not 0 <= task < num_task:
        raise ConfigError(f"--task={task}: of {num_task} tasks, it must be 0 to {num_task - 1}")
    return shards[task::num_task]


def prepare(
    shards: Sequence[TextShard], reader: Reader, output: OutputConfig, num_proc: int
) -> Iterator[ShardStats]:
    """Write those shards that are not there yet, ``num_proc`` at a time; yield as they end.

    Raises:
        DataError: the input is damaged; what is complete stays.
        FunnelError: a file cannot be written, or a process was killed.
    """
    left = [shard for shard in shards if not Path(output.folder, shard.name).exists()]
    if len(left) < len(shards):
        logger.info("%d of %d files are there already", len(shards) - len(left), len(shards))
    calls = [(shard, reader, output) for shard in left]
    if min(num_proc, len(calls)) <= 1:
        yield from (write_shard(*call) for call in calls)
    else:
        yield from run_in_processes(write_shard, calls, num_proc)


def write_shard(shard: TextShard, reader: Reader, output: OutputConfig) -> ShardStats:
    """Write one file; it appears when it is complete."""
    begin = time.perf_counter()
    path = Path(output.folder, shard.name)
    documents = (document for part in shard.parts for document in reader.documents(part))
    # A lone surrogate, which JSON can hold, has no UTF-8 form.
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8", errors="ignore", newline="\n") as file:
            kept, left_out, sentences = _write_documents(file, documents, output)
        text_bytes = temporary.stat().st_size
    input_bytes = sum(part.end - part.start for part in shard.parts)
    seconds = time.perf_counter() - begin
    return ShardStats(str(path), kept, left_out, sentences, text_bytes, input_bytes, seconds)


def _write_documents(
    file: TextIO, documents: Iterable[list[str]], output: OutputConfig
) -> tuple[int, int, int]:
    """Write documents. Returns how many, how many were left out, and the number of sentences."""
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
    """What a sentence is remembered by; 8 bytes are enough for the lines of one file."""
    return hashlib.blake2b(sentence.encode("utf-8", "ignore"), digest_size=8).digest()
