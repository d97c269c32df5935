"""Download one file, with resuming and retries.

Bytes go to ``<name>.part``, and the version they belong to is recorded in ``<name>.part.json``. A
transfer continues where it stopped only if the server confirms that it still has that version. The
file gets its final name when it has the announced size and begins as files of its type do.
Checksums and contents are checked in :mod:`funnel_data.downloads.session`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from funnel.utils.errors import FunnelError
from funnel.utils.files import atomic_write_json
from funnel_data.downloads.transport import Request, Response, TransferError, open_address

_HEAD_BYTES = 512
_MAGIC = {
    ".zip": (b"PK\x03\x04",),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".json": (b"{", b"["),
}
_HTML_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body|\?xml|error)\b", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,18}")  # Python refuses to convert thousands of digits
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_ERROR_TYPES = ("application/json", "application/xml", "text/xml")
_TEMPORARY_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)
_MIN_PROGRESS = 1 << 20  # bytes; an attempt that transfers more resets the count of failures


@dataclass(frozen=True)
class DownloadConfig:
    """Download settings.

    Attributes:
        mirror: URL or directory used in place of every server, None for the servers themselves.
        attempts: consecutive failures after which a download fails.
        stall_seconds: a transfer of less than ``stall_bytes`` in this time is aborted and retried.
        stall_bytes: see ``stall_seconds``.
        first_pause: seconds before the second attempt; doubled for each further one.
        longest_pause: upper limit of a pause in seconds.
    """

    mirror: str | None = None
    attempts: int = 5
    stall_seconds: float = 30.0
    stall_bytes: int = 4096
    first_pause: float = 1.0
    longest_pause: float = 60.0


class Progress(Protocol):
    """Receiver of progress reports."""

    def update(self, name: str, done: int, total: int | None) -> None:
        """Report ``done`` bytes out of ``total`` (None if unknown)."""
        ...

    def note(self, text: str) -> None:
        """Report an event."""
        ...


def mirror_address(url: str, mirror: str | None) -> str:
    """Return the URL or path from which ``url`` is downloaded.

    A mirror has a file under the host and path of its URL, as ``wget -x`` writes it; a directory
    may also have it under its name alone.
    """
    if not mirror:
        return url
    parts = urlsplit(url)
    if "://" in mirror and not mirror.startswith("file://"):
        return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"
    folder = Path(unquote(urlsplit(mirror).path) if "://" in mirror else mirror)
    nested = folder / parts.netloc / unquote(parts.path).lstrip("/")
    flat = folder / file_name(url)
    return str(flat if flat.is_file() and not nested.is_file() else nested)


def file_name(url: str) -> str:
    """Return the last part of a URL's path."""
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def fetch_file(url: str, target: Path, config: DownloadConfig, progress: Progress) -> bool:
    """Download ``url`` to ``target``; return whether part of it came from an earlier attempt.

    Raises:
        FunnelError: after ``config.attempts`` consecutive failures, or at once if another attempt
            would not help (no such file, a web page instead of data, full disk). Received bytes
            are kept for the next call unless they were found to be wrong.
    """
    address = mirror_address(url, config.mirror)
    part, failures, resumed = _PartialFile(target, address), 0, False
    while True:
        before = part.size()
        resumed = resumed or before > 0
        try:
            _transfer(part, config, progress)
            break
        except TransferError as error:
            is_stuck = part.size() - before < _MIN_PROGRESS
            failures = failures + 1 if is_stuck else 1
            if not error.temporary:
                raise FunnelError(f"{address}: {error}") from error
            if failures >= config.attempts:
                message = f"{address}: given up after {failures} attempts: {error}"
                raise FunnelError(message) from error
            pause = _pause(config, failures, error.retry_after)
            progress.note(f"{target.name}: {error}; again in {pause:.0f} s")
            time.sleep(pause)
    part.finish()
    return resumed


def _pause(config: DownloadConfig, failures: int, retry_after: float) -> float:
    """Return seconds to wait: exponential backoff with jitter, or longer if the server asked."""
    pause = config.first_pause * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
    return min(config.longest_pause, max(pause, retry_after))


@dataclass(frozen=True)
class _Version:
    """Identifies the contents of an address at one time."""

    address: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """Value of the ``If-Range`` header, which must not be a weak ETag."""
        is_strong = self.etag and not self.etag.startswith("W/")
        return self.etag if is_strong else self.modified


class _PartialFile:
    """The received bytes of a file, and a record of their version."""

    def __init__(self, target: Path, address: str) -> None:
        self._target, self.address = target, address
        self.path = target.with_name(target.name + ".part")
        self._record = target.with_name(target.name + ".part.json")
        self._version: _Version | None = None
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._version = _Version(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.discard()  # bytes of an unknown version
        if self._version and self._version.address != address:
            self.discard()

    @property
    def version(self) -> _Version | None:
        """Version of the received bytes."""
        return self._version

    def size(self) -> int:
        """Return the number of received bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def head(self) -> bytes:
        """Return the first bytes."""
        with open(self.path, "rb") as stream:
            return stream.read(_HEAD_BYTES)

    def begin(self, version: _Version) -> None:
        """Start again with a version of which no byte was received yet."""
        self.discard()
        self._version = version
        atomic_write_json(self._record, asdict(version))
        self.path.touch()

    def discard(self) -> None:
        """Delete the bytes and the record."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self._version = None

    def finish(self) -> None:
        """Flush the file to disk and give it its final name."""
        with open(self.path, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, self._target)
        self._record.unlink(missing_ok=True)


def _transfer(part: _PartialFile, config: DownloadConfig, progress: Progress) -> None:
    """Make one attempt; return when the file is complete."""
    version, start = part.version, part.size()
    if version and start and start == version.total:
        return
    # Without a validator the server cannot confirm that it still has that version.
    start = start if version and version.validator else 0
    request = Request(
        part.address, start, version.validator if version else None, config.stall_seconds
    )
    with contextlib.closing(open_address(request)) as response:
        _check_status(response, part)
        found = _read_version(part.address, response)
        if response.status == 200:
            _check_type(part.address, response.headers)
            part.begin(found)
        elif not _continues(response, version, found, start):
            part.discard()
            raise TransferError("the file has changed on the server", temporary=True)
        _check_disk_space(part, found.total)
        _receive(part, response, config, progress, found.total)
    size = part.size()
    if found.total is not None and size > found.total:
        part.discard()
        raise TransferError(f"received {size} bytes instead of {found.total}", temporary=True)
    if found.total is not None and size < found.total:
        raise TransferError(f"connection cut at {size} of {found.total} bytes", temporary=True)
    _check_page(part)


def _receive(
    part: _PartialFile,
    response: Response,
    config: DownloadConfig,
    progress: Progress,
    total: int | None,
) -> None:
    """Append the body to the partial file; abort a transfer that stalls."""
    done, was_checked = part.size(), False
    watch = _StallWatch(config, done)
    try:
        with open(part.path, "ab", buffering=0) as output:
            while piece := response.read():
                output.write(piece)
                done += len(piece)
                progress.update(part.path.name.removesuffix(".part"), done, total)
                if done >= _HEAD_BYTES and not was_checked:
                    _check_page(part)
                    was_checked = True
                watch.check(done)
    except OSError as error:
        raise FunnelError(f"{part.path}: cannot be written: {error.strerror}") from error


class _StallWatch:
    """Detects transfers that are too slow, though no single read times out."""

    def __init__(self, config: DownloadConfig, done: int) -> None:
        self._config, self._seen, self._since = config, done, time.monotonic()

    def check(self, done: int) -> None:
        """Compare with the number of bytes ``stall_seconds`` ago.

        Raises:
            TransferError: fewer than ``stall_bytes`` were received since.
        """
        now = time.monotonic()
        if now - self._since < self._config.stall_seconds:
            return
        if done - self._seen < self._config.stall_bytes:
            raise TransferError(f"stalled at {done} bytes", temporary=True)
        self._seen, self._since = done, now


def _read_version(address: str, response: Response) -> _Version:
    headers = response.headers
    size = headers.get("content-length", "")
    if response.status == 206:
        size = headers.get("content-range", "").rpartition("/")[2]
    total = int(size) if _NUMBER.fullmatch(size) else None
    return _Version(address, headers.get("etag"), headers.get("last-modified"), total)


def _continues(response: Response, version: _Version | None, found: _Version, start: int) -> bool:
    """Whether a 206 response is the rest of the partial file, from ``start``."""
    sent = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("content-range", ""))
    if version is None or sent is None or int(sent[1]) != start:
        return False
    # A 206 response may omit headers that the first response had.
    return (
        version.total in (None, found.total)
        and found.etag in (None, version.etag)
        and found.modified in (None, version.modified)
    )


def _check_status(response: Response, part: _PartialFile) -> None:
    if response.status in (200, 206):
        return
    if response.status == 416:  # the file on the server is shorter than the partial one
        part.discard()
    raise TransferError(
        f"the server answers {response.status}",
        temporary=response.status in _TEMPORARY_STATUS,
        retry_after=_parse_retry_after(response.headers),
    )


def _parse_retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a ``Retry-After`` header, which holds a number or a date."""
    text = headers.get("retry-after", "0")
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _check_type(address: str, headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_archive = Path(address).suffix in (".zip", ".gz", ".tgz", ".bz2")
    if kind in _HTML_TYPES or (is_archive and kind in _ERROR_TYPES):
        raise TransferError(f"the server sends {kind} instead of the file", temporary=False)


def _check_page(part: _PartialFile) -> None:
    """Discard a file that does not begin as its type does, which is mostly an error page."""
    head = part.head()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    suffix = Path(part.address).suffix
    if _HTML_PAGE.match(text):
        problem = "the server sends a web page instead of the file"
    elif not head:
        problem = "the file is empty"
    elif suffix in _MAGIC and not (text if suffix == ".json" else head).startswith(_MAGIC[suffix]):
        problem = f"the contents are not those of a {suffix} file: {head[:20]!r}"
    else:
        return
    part.discard()
    raise TransferError(problem, temporary=False)


def _check_disk_space(part: _PartialFile, total: int | None) -> None:
    free = shutil.disk_usage(part.path.parent).free
    missing = (total or 0) - part.size()
    if missing > free:
        raise FunnelError(
            f"{part.path}: {missing / 1e9:.1f} GB are missing, {free / 1e9:.1f} GB are free"
        )
