"""Downloading sets: what is there stays, what is missing is fetched, checked and put in place.

A set's folder appears by a rename when everything in it has been checked. Checksums are not
published, so they are written to a manifest when a set has passed its checks for the first time,
and compared from then on; a manifest of someone you trust serves as well.
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
_MOST_FILES_LISTED = 100  # of larger sets the records are counted again instead


class _OtherSizeError(DataError):
    """A set that can be read, but has another number of records than the published one."""


@dataclass(frozen=True)
class SessionConfig:
    """Where sets go and how they are treated.

    Attributes:
        dest: folder that gets one folder per set.
        manifest: file of checksums, None for ``download-manifest.json`` in ``dest``.
        any_size: another number of records than the published one is a warning, no error.
        keep_archives: leave downloads in ``dest/.downloads`` once they are unpacked.
        force: make a folder anew that is there but not whole.
        download: how files are fetched.
    """

    dest: Path
    manifest: Path | None = None
    any_size: bool = False
    keep_archives: bool = False
    force: bool = False
    download: DownloadConfig = field(default_factory=DownloadConfig)


@dataclass(frozen=True)
class Outcome:
    """What became of a set: ``there already``, ``downloaded`` or ``FAILED``, and why."""

    name: str
    state: str
    detail: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the set is not there."""
        return self.state == "FAILED"


def provide_all(
    sets: Sequence[DownloadSet], config: SessionConfig, progress: Progress
) -> list[Outcome]:
    """Provide every set; one that fails does not keep the others back."""
    outcomes = []
    for chosen in sets:
        try:
            state, detail = provide(chosen, config, progress), ""
        except (FunnelError, OSError) as error:  # no permission, a file system without locks, ...
            state, detail = "FAILED", str(error)
        outcomes.append(Outcome(chosen.name, state, detail))
        progress.note(" ".join(filter(None, (f"{chosen.name}: {state}", detail))))
    return outcomes


def provide(chosen: DownloadSet, config: SessionConfig, progress: Progress) -> str:
    """Make sure that the folder of one set is there and whole; return what was done.

    Raises:
        FunnelError: it could not be downloaded, is not what was published, differs from the
            manifest, or stands there incomplete without ``force``.
    """
    folder, work = config.dest / chosen.name, config.dest / WORK_NAME / chosen.name
    manifest = Manifest(config.manifest or config.dest / MANIFEST_NAME)
    work.mkdir(parents=True, exist_ok=True)
    with _lock(work):
        recover_swap(folder)
        is_there = folder.is_dir() and any(folder.iterdir())
        if is_there and not _is_replaced(chosen, config, manifest):
            state = "there already"
        else:
            files = _download_and_build(chosen, config, manifest, progress)
            for file in [] if config.keep_archives else files:
                file.unlink()
            state = "downloaded"
    with contextlib.suppress(OSError):  # archives are kept, or others are on their way
        work.rmdir()
        work.parent.rmdir()
    return state


def _is_replaced(chosen: DownloadSet, config: SessionConfig, manifest: Manifest) -> bool:
    """Whether a folder that is there has to be made anew."""
    folder = config.dest / chosen.name
    try:
        sizes = manifest.sizes(chosen.name)
        changed = [name for name, size in sizes.items() if _size(folder / name) != size]
        if changed:
            raise DataError(f"{folder / changed[0]}: is missing or has changed since its download")
        if not sizes:
            _check(chosen, folder, config.any_size)
    except DataError as error:
        if config.force:
            return True
        hint = f"{error}; --force replaces {folder}, with everything in it"
        raise DataError(hint) from error
    return False


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _download_and_build(
    chosen: DownloadSet, config: SessionConfig, manifest: Manifest, progress: Progress
) -> list[Path]:
    """Return the downloads that the folder was made of."""
    folder, work = config.dest / chosen.name, config.dest / WORK_NAME / chosen.name
    files = [work / file_name(url) for url in chosen.urls]
    may_repeat = True
    while True:
        # What an interrupted run left may be damaged in ways that only its contents show.
        reused = [
            file.exists() or fetch_file(url, file, config.download, progress)
            for url, file in zip(chosen.urls, files, strict=True)
        ]
        try:
            sums = dict(zip(chosen.urls, map(_facts, files), strict=True))
            manifest.compare(sums)
            _build_folder(chosen, files, folder, config.any_size)
            manifest.record(sums, chosen.name, folder)
            return files
        except DataError as error:
            is_repeated = any(reused) and may_repeat
            if is_repeated or not isinstance(error, _OtherSizeError):
                for file in files:
                    file.unlink(missing_ok=True)
            if not is_repeated:
                raise
            may_repeat = False
            progress.note(f"{error}; a part was left from before: once more from the start")


def _build_folder(chosen: DownloadSet, files: Sequence[Path], folder: Path, any_size: bool) -> None:
    with atomic_directory(folder) as temporary:
        try:
            build(chosen, files, temporary)
            _check(chosen, temporary, any_size, shown=folder)
        except DataError as error:
            raise type(error)(str(error).replace(str(temporary), str(folder))) from error


def _check(chosen: DownloadSet, folder: Path, any_size: bool, shown: Path | None = None) -> None:
    """Read the whole set; ``shown`` is what messages call its folder."""
    differences = compare(chosen, shown or folder, count(chosen, folder))
    if differences and not any_size:
        raise _OtherSizeError(f"{'; '.join(differences)} (--any-size accepts that)")
    for line in differences:
        logger.warning("%s", line)


def _facts(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256_file(file)}


class Manifest:
    """Sizes and SHA-256 sums of downloads by address, and the files of each set by their size."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sizes(self, name: str) -> dict[str, int]:
        """Return the size of each file of a set; nothing if the set is not listed."""
        return self._read()["sets"].get(name, {})

    def compare(self, sums: dict[str, dict[str, Any]]) -> None:
        """Compare downloads with those of the first time.

        Raises:
            DataError: one is another file.
        """
        known = self._read()["downloads"]
        for url, found in sums.items():
            if url in known and known[url] != found:
                raise DataError(
                    f"{url}: {found['size']} bytes with SHA-256 {found['sha256']}, but by "
                    f"{self._path} {known[url].get('size')} bytes with {known[url].get('sha256')}; "
                    "if the publisher changed the file, remove its entry there"
                )

    def record(self, sums: dict[str, dict[str, Any]], name: str, folder: Path) -> None:
        """Add downloads that have passed every check, and the folder they were made into."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        is_small = len(files) <= _MOST_FILES_LISTED
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(self._path.parent, wait=True):
            known = self._read()
            contents = {
                "downloads": known["downloads"] | sums,
                "sets": known["sets"] | {name: sizes if is_small else {}},
            }
            if contents != known:  # a manifest one was given may not be writable
                atomic_write_json(self._path, contents)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            contents = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            contents = {}
        except (OSError, ValueError) as error:
            raise FunnelError(f"{self._path}: no manifest of downloads: {error}") from error
        return {part: contents.get(part, {}) for part in ("downloads", "sets")}


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which ends with the process.

    Raises:
        FunnelError: another process holds it, and ``wait`` is not set.
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
    """Shows progress in one line of a terminal; notes are lines of their own, anywhere."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._name, self._began, self._first, self._shown = "", 0.0, 0, 0.0

    def update(self, name: str, done: int, total: int | None) -> None:
        """Rewrite the line, at most five times a second."""
        now = time.monotonic()
        if name != self._name:
            self._name, self._began, self._first = name, now, done
        if not self._is_terminal or (now - self._shown < 0.2 and done != total):
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._began, 1e-3)
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        size = f"{done / 1e6:.1f} of {total / 1e6:.1f}" if total else f"{done / 1e6:.1f}"
        self._stream.write(f"\r\x1b[K{name}: {size} MB, {rate / 1e6:.1f} MB/s{left}")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Write a line that stays."""
        self._stream.write(("\r\x1b[K" if self._is_terminal else "") + text + os.linesep)
        self._stream.flush()
