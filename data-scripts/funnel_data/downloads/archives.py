"""Unpack untrusted archives: regular files only, and only below the target folder.

Members are written by this module rather than by ``extractall``, so that links, devices, owners,
set-user-id bits and paths chosen by the archive never reach the disk. Memory and time are bounded
by the size of the archive: a member is copied in pieces, and all members together may unpack to a
hundred times that size.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from funnel.utils.compressed import FREE_GROWTH, SequentialReader
from funnel.utils.errors import DataError
from funnel.utils.files import name_read_errors
from funnel_data.downloads.tar_stream import Readable, read_members

_READ_BYTES = 1 << 20
# Text compresses five- to tenfold; an archive that expands much more is a decompression bomb.
_MAX_GROWTH = 100
_MAX_MEMBERS = 200_000  # the largest set has a hundred thousand
_MAX_DIRECTORY = 64 << 20  # bytes of a zip file's directory, ten times as much in memory
_MAX_NAME, _MAX_PARTS = 255, 64  # bytes of a name (a limit of file systems), names in a path
_END_BYTES = 22 + (1 << 16) + 76  # of a zip file, with its comment and the 64-bit records
_LOCAL_HEADER = 30  # bytes between the start of a zip member and its name
_CORRUPTION = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,  # invalid names or numbers in headers
    OverflowError,
    NotImplementedError,  # a version or method of zip
    MemoryError,
)


class ArchiveError(DataError):
    """An archive that is corrupt, or has members that an archive of data does not need."""


class _Member(NamedTuple):
    name: str
    problem: str | None  # reason for refusing a member of this kind
    content: Readable | None  # None for a folder


def unpack(archive: Path, folder: Path, keep: tuple[str, ...] = ("**",)) -> list[Path]:
    """Unpack a ``.zip``, ``.tar.gz`` or ``.tgz`` file; return the files written below ``folder``.

    A member is kept if its path, with or without the first folder, matches a pattern part by part
    as in a shell; ``**`` keeps all members under their full paths. It is written under the part of
    its path that matched, so ``("*.tsv",)`` writes ``CoLA/train.tsv`` to ``train.tsv``. Every
    member is checked, kept or not, and a tar archive is read to its end to detect truncation. After
    an error, everything that was written is removed.

    Raises:
        ArchiveError: the archive is corrupt or encrypted, or expands out of proportion; a member
            has an absolute path or ``..`` in it, no name, or a name that is too long, or is a link
            or device; two members have the same target, or one is a folder of the other; members
            of a zip file overlap.
    """
    with name_read_errors(archive, ArchiveError):
        budget = _MAX_GROWTH * archive.stat().st_size + FREE_GROWTH
    with ExitStack() as cleanup:
        output = _Output(archive, folder)
        cleanup.callback(output.remove)
        try:
            for number, member in enumerate(_members(archive, keep, budget)):
                if number >= _MAX_MEMBERS:
                    raise ArchiveError(f"{archive}: holds more than {_MAX_MEMBERS} members")
                _check_safe(archive, member)
                wanted = _target_path(member.name, keep)
                if member.content is None or wanted is None:
                    continue
                target = output.add(wanted)
                budget = _write(archive, member.content, target, budget)
        except _CORRUPTION as error:
            reason = str(error) or type(error).__name__
            raise ArchiveError(f"{archive}: corrupt archive: {reason}") from error
        if not output.files:
            raise ArchiveError(f"{archive}: holds nothing that matches {', '.join(keep)}")
        cleanup.pop_all()
    return list(output.files.values())


class _Output:
    """The files that an archive was unpacked to, and the folders made for them."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.files: dict[str, Path] = {}  # by their path in lower case: one file on some systems
        self._archive, self._folder = archive, folder
        self._parents: dict[str, str] = {}
        self._made: list[Path] = []
        self._made_or_there: set[Path] = set()

    def add(self, wanted: str) -> Path:
        """Return the path of a new file, with its folders made.

        Raises:
            ArchiveError: it is there already, or is a folder, or one of its folders is a file.
        """
        key, path = wanted.casefold(), PurePosixPath(wanted)
        if key in self.files:
            raise ArchiveError(f"{self._archive}: holds {wanted} twice")
        if key in self._parents:
            self._refuse(wanted, self._parents[key])
        for parent in (str(one) for one in path.parents[:-1]):
            if parent.casefold() in self.files:
                self._refuse(parent, wanted)
            self._parents.setdefault(parent.casefold(), wanted)
        target = self._folder / wanted
        if os.path.lexists(target):  # from another archive, or the same name to this file system
            raise ArchiveError(f"{self._archive}: {wanted} is already in {self._folder}")
        self._make_folders(target.parent)
        self.files[key] = target
        return target

    def _make_folders(self, folder: Path) -> None:
        if folder in self._made_or_there:
            return
        for one in reversed((folder, *folder.parents)):
            if not one.exists():
                one.mkdir()
                self._made.append(one)
        self._made_or_there.add(folder)

    def _refuse(self, file: str, below: str) -> None:
        raise ArchiveError(f"{self._archive}: holds both a file {file} and {below}")

    def remove(self) -> None:
        """Remove all files and folders."""
        for path in self.files.values():
            path.unlink(missing_ok=True)
        with suppress(OSError):  # files of others are in them
            for path in reversed(self._made):
                path.rmdir()


def _write(archive: Path, content: Readable, target: Path, budget: int) -> int:
    """Copy one member; return the rest of the budget of bytes."""
    with open(target, "xb") as output:
        while piece := _read(archive, content):
            budget -= len(piece)
            if budget < 0:
                raise _out_of_proportion(archive)
            output.write(piece)
    return budget


def _read(archive: Path, content: Readable) -> bytes:
    """Return the next bytes; an error of reading must not look like one of writing."""
    try:
        return content.read(_READ_BYTES)
    except OSError as error:  # bzip2 raises it, without a number, for corrupt data
        raise ArchiveError(f"{archive}: corrupt archive: {error.strerror or error}") from error


def _out_of_proportion(archive: Path) -> ArchiveError:
    return ArchiveError(f"{archive}: unpacks to over {_MAX_GROWTH} times its size")


def _check_safe(archive: Path, member: _Member) -> None:
    parts = member.name.replace("\\", "/").split("/")
    names = [part for part in parts if part not in ("", ".")]
    problem = member.problem
    if member.name.startswith(("/", "\\")) or ":" in parts[0]:
        problem = "its path is absolute"
    elif ".." in parts:
        problem = "its path holds .."
    elif "\0" in member.name:
        problem = "its path holds a NUL"
    elif any(len(os.fsencode(name)) > _MAX_NAME for name in names):
        problem = f"a name in its path has over {_MAX_NAME} bytes"
    elif len(names) > _MAX_PARTS:
        problem = f"its path has over {_MAX_PARTS} parts"
    elif member.content is not None and (not names or parts[-1] in ("", ".")):
        problem = "it has no name"
    if problem:
        shown = member.name if len(member.name) <= 100 else f"{member.name[:100]}…"
        raise ArchiveError(f"{archive}: refused, because of {shown!r}: {problem}")


def _target_path(name: str, keep: tuple[str, ...]) -> str | None:
    """Return the path a member is written to, or None if it is not kept."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if parts and (parts[0] == "__MACOSX" or parts[-1].startswith("._")):
        return None  # added by the macOS Finder
    for pattern in keep:
        if pattern == "**":
            return "/".join(parts)
        wanted = pattern.split("/")
        for tail in (parts, parts[1:]):
            if len(tail) == len(wanted) and all(map(fnmatchcase, tail, wanted)):
                return "/".join(tail)
    return None


def _members(archive: Path, keep: tuple[str, ...], budget: int) -> Iterator[_Member]:
    if archive.name.endswith(".zip"):
        return _zip_members(archive, keep, budget)
    return _tar_members(archive)


def _zip_members(archive: Path, keep: tuple[str, ...], budget: int) -> Iterator[_Member]:
    with _open_zip(archive) as opened:
        entries = opened.infolist()
        _check_overlaps(archive, entries)
        # The sizes in the directory are binding: a member with more data has a wrong checksum.
        kept = (e.file_size for e in entries if _target_path(e.filename, keep) is not None)
        if sum(kept) > budget:
            raise _out_of_proportion(archive)
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            problem = None
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                problem = "it is a link or device"
            elif entry.flag_bits & 1:
                problem = "it is encrypted"
            if problem or entry.is_dir():
                yield _Member(entry.filename, problem, None)
                continue
            with name_read_errors(archive, ArchiveError):
                content = opened.open(entry)
            with content:
                yield _Member(entry.filename, None, content)


def _open_zip(archive: Path) -> zipfile.ZipFile:
    with name_read_errors(archive, ArchiveError):
        size = _directory_size(archive)
        if size > _MAX_DIRECTORY:
            raise ArchiveError(f"{archive}: its directory has {size} bytes, over {_MAX_DIRECTORY}")
        return zipfile.ZipFile(archive)


def _directory_size(archive: Path) -> int:
    """Return the bytes of a zip file's directory, which is read as one; 0 if it has none."""
    with open(archive, "rb") as stream:
        start = max(0, archive.stat().st_size - _END_BYTES)
        stream.seek(start)
        tail = stream.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) < end + 22:
            return 0
        sizes = [struct.unpack_from("<L", tail, end + 12)[0]]
        if end >= 20 and tail.startswith(b"PK\x06\x07", end - 20):  # a 64-bit record is in front
            stream.seek(max(0, start + end - 20 - 56))
            sizes += struct.unpack_from("<Q", stream.read(56).ljust(56, b"\0"), 40)
        return max(size for size in sizes if size != 0xFFFFFFFF) if len(sizes) > 1 else sizes[0]


def _check_overlaps(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes: a few megabytes could then unpack to terabytes."""
    end = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset < end:
            raise ArchiveError(f"{archive}: refused, because members overlap: {entry.filename!r}")
        end = entry.header_offset + _LOCAL_HEADER + entry.compress_size


def _tar_members(archive: Path) -> Iterator[_Member]:
    with SequentialReader(archive, _MAX_GROWTH, ArchiveError, "archive") as stream:
        for member in read_members(stream):
            yield _Member(member.name, member.problem, member.content)
