"""One file from the internet: resumed, retried, and never mistaken for whole before it is.

Bytes go to ``<name>.part`` with a note of the version they belong to beside it. A transfer goes on
where it stopped only if the server says that it still has that version. The file gets its name when
its size is what the server announced and its first bytes are what its kind begins with. What else
there is to check (checksums against the manifest, contents) is
:mod:`funnel_data.downloads.session`'s.
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

_HEAD = 512
_MAGIC = {
    ".zip": (b"PK\x03\x04",),
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".json": (b"{", b"["),
}
_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body|\?xml|error)\b", re.IGNORECASE)
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_DATA_TYPES_OF_ERRORS = ("application/json", "application/xml", "text/xml")
_TEMPORARY = (408, 416, 425, 429, 500, 502, 503, 504)
_NO_PROGRESS = 1 << 20  # an attempt that brings more than this is not counted as failed


@dataclass(frozen=True)
class DownloadConfig:
    """How to download.

    Attributes:
        mirror: URL or directory that stands in for every server, None for the servers themselves.
        attempts: failures in a row after which a file is given up.
        stall_seconds: a transfer that brings less than ``stall_bytes`` in this time is broken off.
        stall_bytes: see there.
        first_pause: seconds before the second attempt; doubled each time.
        longest_pause: no pause is longer.
    """

    mirror: str | None = None
    attempts: int = 5
    stall_seconds: float = 30.0
    stall_bytes: int = 4096
    first_pause: float = 1.0
    longest_pause: float = 60.0


class Progress(Protocol):
    """Hears how far a file is."""

    def update(self, name: str, done: int, total: int | None) -> None:
        """Take note of ``done`` bytes out of ``total`` (None: not known)."""
        ...

    def note(self, text: str) -> None:
        """Show a line that stays."""
        ...


def mirrored(url: str, mirror: str | None) -> str:
    """Return where ``url`` is fetched from.

    A mirror holds a file under the host and path of its URL, as ``wget -x`` writes it. In a
    directory it may also lie under its name alone.
    """
    if not mirror:
        return url
    parts = urlsplit(url)
    if "://" in mirror and not mirror.startswith("file://"):
        return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"
    folder = Path(unquote(urlsplit(mirror).path) if "://" in mirror else mirror)
    whole = folder / parts.netloc / unquote(parts.path).lstrip("/")
    flat = folder / file_name(url)
    return str(flat if flat.is_file() and not whole.is_file() else whole)


def file_name(url: str) -> str:
    """Return the last part of a URL's path."""
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def fetch_file(url: str, target: Path, config: DownloadConfig, progress: Progress) -> bool:
    """Download ``url`` to ``target``; return whether a part of it came from an earlier attempt.

    Raises:
        FunnelError: given up after so many attempts, or at once where another would not help (no
            such file, a web page instead of data, full disk). What has arrived is kept for the
            next call, unless it was found to be wrong.
    """
    address = mirrored(url, config.mirror)
    part, failures, resumed = _Part(target, address), 0, False
    while True:
        before = part.size()
        resumed = resumed or before > 0
        try:
            _transfer(part, config, progress)
            break
        except TransferError as error:
            is_stuck = part.size() - before < _NO_PROGRESS
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


def _pause(config: DownloadConfig, failures: int, asked: float) -> float:
    """Return seconds to wait: doubled each time, spread so that clients do not return at once."""
    pause = config.first_pause * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
    return min(config.longest_pause, max(pause, asked))


@dataclass(frozen=True)
class _Version:
    """What identifies the contents at an address at one time."""

    address: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """The header value for ``If-Range``, which takes no weak ETag."""
        is_strong = self.etag and not self.etag.startswith("W/")
        return self.etag if is_strong else self.modified


class _Part:
    """A file on its way: the bytes there are, and the note of their version."""

    def __init__(self, target: Path, address: str) -> None:
        self._target, self.address = target, address
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self._version: _Version | None = None
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._version = _Version(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.discard()  # bytes of which nothing is known
        if self._version and self._version.address != address:
            self.discard()

    @property
    def version(self) -> _Version | None:
        """The version of the bytes there are."""
        return self._version

    def size(self) -> int:
        """Number of bytes there are."""
        return self.path.stat().st_size if self.path.exists() else 0

    def head(self) -> bytes:
        """The first bytes."""
        with open(self.path, "rb") as stream:
            return stream.read(_HEAD)

    def begin(self, version: _Version) -> None:
        """Start over with a version of which no byte is there yet."""
        self.discard()
        self._version = version
        atomic_write_json(self._note, asdict(version))
        self.path.touch()

    def discard(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self._version = None

    def finish(self) -> None:
        """Give the file its name, once its bytes are on the disk."""
        with open(self.path, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, self._target)
        self._note.unlink(missing_ok=True)


def _transfer(part: _Part, config: DownloadConfig, progress: Progress) -> None:
    """One attempt; returns when the file is complete."""
    version, start = part.version, part.size()
    if version and start and start == version.total:
        return
    # Without a validator the server cannot be asked whether it still has that version.
    start = start if version and version.validator else 0
    request = Request(
        part.address, start, version.validator if version else None, config.stall_seconds
    )
    with contextlib.closing(open_address(request)) as response:
        _refuse_status(response, part)
        found = _version(part.address, response)
        if response.status == 200:
            _refuse_type(part.address, response.headers)
            part.begin(found)
        elif not _continues(response, version, found, start):
            part.discard()
            raise TransferError("the server has another version by now", temporary=True)
        _refuse_full_disk(part, found.total)
        _receive(part, response, config, progress, found.total)
    size = part.size()
    if found.total is not None and size > found.total:
        part.discard()
        raise TransferError(f"{size} bytes came instead of {found.total}", temporary=True)
    if found.total is not None and size < found.total:
        raise TransferError(f"connection cut at {size} of {found.total} bytes", temporary=True)
    _refuse_page(part)


def _receive(
    part: _Part,
    response: Response,
    config: DownloadConfig,
    progress: Progress,
    total: int | None,
) -> None:
    """Append the body, watching that it keeps coming."""
    done, was_checked = part.size(), False
    watch = _StallWatch(config, done)
    try:
        with open(part.path, "ab", buffering=0) as output:
            while piece := response.read():
                output.write(piece)
                done += len(piece)
                progress.update(part.path.name.removesuffix(".part"), done, total)
                if done >= _HEAD and not was_checked:
                    _refuse_page(part)
                    was_checked = True
                watch.look(done)
    except OSError as error:
        raise FunnelError(f"{part.path}: cannot be written: {error.strerror}") from error


class _StallWatch:
    """Breaks off a transfer that never stands still for long, but hardly moves either."""

    def __init__(self, config: DownloadConfig, done: int) -> None:
        self._config, self._seen, self._since = config, done, time.monotonic()

    def look(self, done: int) -> None:
        """Compare with what there was ``stall_seconds`` ago."""
        now = time.monotonic()
        if now - self._since < self._config.stall_seconds:
            return
        if done - self._seen < self._config.stall_bytes:
            raise TransferError(f"stalled at {done} bytes", temporary=True)
        self._seen, self._since = done, now


def _version(address: str, response: Response) -> _Version:
    headers = response.headers
    size = headers.get("content-length", "")
    if response.status == 206:
        size = headers.get("content-range", "").rpartition("/")[2]
    total = int(size) if size.isdigit() else None
    return _Version(address, headers.get("etag"), headers.get("last-modified"), total)


def _continues(response: Response, version: _Version | None, found: _Version, start: int) -> bool:
    """Whether a 206 answer is the rest of the version that is there, from where it stops."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    if version is None or sent is None or int(sent[1]) != start:
        return False
    # A 206 answer may leave out what the first one said.
    return (
        version.total in (None, found.total)
        and found.etag in (None, version.etag)
        and found.modified in (None, version.modified)
    )


def _refuse_status(response: Response, part: _Part) -> None:
    if response.status in (200, 206):
        return
    if response.status == 416:  # it has fewer bytes by now than there are here
        part.discard()
    raise TransferError(
        f"the server answers {response.status}",
        temporary=response.status in _TEMPORARY,
        retry_after=_asked_pause(response.headers),
    )


def _asked_pause(headers: Mapping[str, str]) -> float:
    """Return the seconds of a ``Retry-After`` header: a number, or a date."""
    text = headers.get("retry-after", "0")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _refuse_type(address: str, headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_archive = Path(address).suffix in (".zip", ".gz", ".tgz", ".bz2")
    if kind in _PAGE_TYPES or (is_archive and kind in _DATA_TYPES_OF_ERRORS):
        raise TransferError(f"the server sends {kind} instead of the file", temporary=False)


def _refuse_page(part: _Part) -> None:
    """Discard what does not begin as files of its kind do: mostly a web page about an error."""
    head = part.head()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    suffix = Path(part.address).suffix
    if _PAGE.match(text):
        problem = "the server sends a web page instead of the file"
    elif not head:
        problem = "the file is empty"
    elif suffix in _MAGIC and not (text if suffix == ".json" else head).startswith(_MAGIC[suffix]):
        problem = f"the contents are not those of a {suffix} file: {head[:20]!r}"
    else:
        return
    part.discard()
    raise TransferError(problem, temporary=False)


def _refuse_full_disk(part: _Part, total: int | None) -> None:
    free = shutil.disk_usage(part.path.parent).free
    missing = (total or 0) - part.size()
    if missing > free:
        raise FunnelError(
            f"{part.path}: {missing / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free"
        )
