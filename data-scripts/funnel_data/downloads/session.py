"""Download sets: keep the ones that are there, download, check and install the missing ones.

A folder is built under a temporary name and renamed when its contents have been checked. Checksums
are not published, so they are written to a manifest when a set first passes its checks, and
compared from then on; a manifest from a trusted source works as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from funnel.utils.errors import DataError, FunnelError
from funnel.utils.files import atomic_directory, atomic_write_json, recover_swap, sha256_file
from funnel_data.downloads.catalog import DownloadSet
from funnel_data.downloads.fetch import DownloadConfig, Progress, fetch_file, file_name
from funnel_data.downloads.recipes import build, compare, count

logger = logging.getLogger(__name__)

MANIFEST_NAME = "download-manifest.json"
WORK_NAME = ".downloads"
_MAX_FILES_LISTED = 100  # for sets with more files, the records are counted again instead


class _OtherSizeError(DataError):
    """A readable set whose number of records is not the published one."""


@dataclass(frozen=True)
class SessionConfig:
    """Settings of a session.

    Attributes:
        dest: folder that gets one folder per set.
        manifest: file of checksums, None for ``download-manifest.json`` in ``dest``.
        any_size: a number of records other than the published one is a warning, not an error.
        keep_archives: keep downloads in ``dest/.downloads`` after unpacking.
        force: replace folders that are incomplete.
        download: settings of the transfers.
    """

    dest: Path
    manifest: Path | None = None
    any_size: bool = False
    keep_archives: bool = False
    force: bool = False
    download: DownloadConfig = field(default_factory=DownloadConfig)


@dataclass(frozen=True)
class Outcome:
    """State of a set (``there already``, ``downloaded`` or ``FAILED``) and the reason."""

    name: str
    state: str
    detail: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the set could not be installed."""
        return self.state == "FAILED"


def download_sets(
    sets: Sequence[DownloadSet], config: SessionConfig, progress: Progress
) -> list[Outcome]:
    """Install every set; one that fails does not affect the others."""
    outcomes = []
    for dataset in sets:
        try:
            state, detail = download_set(dataset, config, progress), ""
        except (FunnelError, OSError) as error:  # no permission, a file system without locks, ...
            state, detail = "FAILED", str(error)
        outcomes.append(Outcome(dataset.name, state, detail))
        progress.note(" ".join(filter(None, (f"{dataset.name}: {state}", detail))))
    return outcomes


def download_set(dataset: DownloadSet, config: SessionConfig, progress: Progress) -> str:
    """Make sure that the folder of a set is there and complete; return its state.

    Raises:
        FunnelError: the set could not be downloaded, is not as published, differs from the
            manifest, or an existing folder is incomplete and ``force`` is not set.
    """
    folder, work = config.dest / dataset.name, config.dest / WORK_NAME / dataset.name
    manifest = Manifest(config.manifest or config.dest / MANIFEST_NAME)
    work.mkdir(parents=True, exist_ok=True)
    with _lock(work):
        recover_swap(folder)
        is_there = folder.is_dir() and any(folder.iterdir())
        if is_there and not _must_be_replaced(dataset, config, manifest):
            state = "there already"
        else:
            files = _download_and_build(dataset, config, manifest, progress)
            for file in [] if config.keep_archives else files:
                file.unlink()
            state = "downloaded"
    with contextlib.suppress(OSError):  # not empty: archives are kept, or other downloads run
        work.rmdir()
        work.parent.rmdir()
    return state


def _must_be_replaced(dataset: DownloadSet, config: SessionConfig, manifest: Manifest) -> bool:
    """Whether an existing folder has to be built again.

    Raises:
        DataError: it is incomplete, and ``config.force`` is not set.
    """
    folder = config.dest / dataset.name
    try:
        sizes = manifest.sizes(dataset.name)
        changed = [name for name, size in sizes.items() if _size(folder / name) != size]
        if changed:
            raise DataError(f"{folder / changed[0]}: is missing or has changed since its download")
        if not sizes:
            _check(dataset, folder, config.any_size)
    except DataError as error:
        if config.force:
            return True
        hint = f"{error}; --force replaces {folder}, with everything in it"
        raise DataError(hint) from error
    return False


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _download_and_build(
    dataset: DownloadSet, config: SessionConfig, manifest: Manifest, progress: Progress
) -> list[Path]:
    """Return the downloaded files that the folder was built from."""
    folder, work = config.dest / dataset.name, config.dest / WORK_NAME / dataset.name
    files = [work / file_name(url) for url in dataset.urls]
    may_repeat = True
    while True:
        # Files left by an interrupted run can be corrupt in ways that only their contents show.
        reused = [
            file.exists() or fetch_file(url, file, config.download, progress)
            for url, file in zip(dataset.urls, files, strict=True)
        ]
        try:
            sums = dict(zip(dataset.urls, map(_measure, files), strict=True))
            manifest.compare(sums)
            _build_folder(dataset, files, folder, config.any_size)
            manifest.record(sums, dataset.name, folder)
            return files
        except DataError as error:
            is_repeated = any(reused) and may_repeat
            if is_repeated or not isinstance(error, _OtherSizeError):
                for file in files:
                    file.unlink(missing_ok=True)
            if not is_repeated:
                raise
            may_repeat = False
            progress.note(f"{error}; part of it was left from an earlier run: downloading it again")


def _build_folder(
    dataset: DownloadSet, files: Sequence[Path], folder: Path, any_size: bool
) -> None:
    with atomic_directory(folder) as temporary:
        try:
            build(dataset, files, temporary)
            _check(dataset, temporary, any_size, shown=folder)
        except DataError as error:
            raise type(error)(str(error).replace(str(temporary), str(folder))) from error


def _check(dataset: DownloadSet, folder: Path, any_size: bool, shown: Path | None = None) -> None:
    """Read the complete set; ``shown`` is the folder that messages name."""
    differences = compare(dataset, shown or folder, count(dataset, folder))
    if differences and not any_size:
        raise _OtherSizeError(f"{'; '.join(differences)} (--any-size accepts that)")
    for line in differences:
        logger.warning("%s", line)


def _measure(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256_file(file)}


class Manifest:
    """Size and SHA-256 of every download by URL, and the file sizes of every set."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sizes(self, name: str) -> dict[str, int]:
        """Return the size of each file of a set, empty if the set is not listed."""
        return self._read()["sets"].get(name, {})

    def compare(self, sums: dict[str, dict[str, Any]]) -> None:
        """Compare downloads with the recorded ones.

        Raises:
            DataError: size or checksum of one differs.
        """
        known = self._read()["downloads"]
        for url, found in sums.items():
            if url in known and known[url] != found:
                raise DataError(
                    f"{url}: {found['size']} bytes with SHA-256 {found['sha256']}, but "
                    f"{self._path} has {known[url].get('size')} bytes with "
                    f"{known[url].get('sha256')}; if the publisher changed the file, remove its "
                    "entry there"
                )

    def record(self, sums: dict[str, dict[str, Any]], name: str, folder: Path) -> None:
        """Add downloads that passed every check, and the folder that was built from them."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        is_small = len(files) <= _MAX_FILES_LISTED
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(self._path.parent, wait=True):
            known = self._read()
            contents = {
                "downloads": known["downloads"] | sums,
                "sets": known["sets"] | {name: sizes if is_small else {}},
            }
            if contents != known:  # a manifest given by the user may not be writable
                atomic_write_json(self._path, contents)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            contents = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            contents = {}
        except (OSError, ValueError) as error:
            raise FunnelError(f"{self._path}: not a manifest of downloads: {error}") from error
        return {part: contents.get(part, {}) for part in ("downloads", "sets")}


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder; the operating system releases it if the process dies.

    Raises:
        FunnelError: another process holds the lock, and ``wait`` is not set.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise FunnelError(f"{folder}: another download of this set is running") from error
    finally:
        os.close(handle)


class ConsoleProgress:
    """Shows progress in one line of a terminal, and notes as lines of their own on any stream."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._name, self._start_time, self._start_bytes, self._shown_at = "", 0.0, 0, 0.0

    def update(self, name: str, done: int, total: int | None) -> None:
        """Rewrite the progress line, at most five times a second."""
        now = time.monotonic()
        if name != self._name:
            self._name, self._start_time, self._first = name, now, done
        if not self._is_terminal or (now - self._shown_at < 0.2 and done != total):
            return
        self._shown_at = now
        rate = (done - self._start_bytes) / max(now - self._start_time, 1e-3)
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        size = f"{done / 1e6:.1f} of {total / 1e6:.1f}" if total else f"{done / 1e6:.1f}"
        self._stream.write(f"\r\x1b[K{name}: {size} MB, {rate / 1e6:.1f} MB/s{left}")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Write a permanent line."""
        self._stream.write(("\r\x1b[K" if self._is_terminal else "") + text + os.linesep)
        self._stream.flush()
