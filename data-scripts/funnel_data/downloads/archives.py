"""Unpack untrusted archives: regular files only, and only below the target folder.

Members are written by this module rather than by ``extractall``, so that links, devices, owners,
set-user-id bits and paths chosen by the archive never reach the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from funnel.utils.errors import DataError

_READ_BYTES = 1 << 20
# Text compresses five- to tenfold; an archive that expands much more is a decompression bomb.
_MAX_GROWTH, _FREE_GROWTH = 100, 64 << 20
_CORRUPTION = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # invalid names or numbers in headers
)


class ArchiveError(DataError):
    """An archive that is corrupt, or has members that an archive of data does not need."""


class _Member(NamedTuple):
    name: str
    problem: str | None  # reason for refusing a member of this kind
    content: IO[bytes] | None  # None for a folder


def unpack(archive: Path, folder: Path, keep: tuple[str, ...] = ("**",)) -> list[Path]:
    """Unpack a ``.zip``, ``.tar.gz`` or ``.tgz`` file; return the files written below ``folder``.

    A member is kept if its path, with or without the first folder, matches a pattern part by part
    as in a shell; ``**`` keeps all members under their full paths. It is written under the part of
    its path that matched, so ``("*.tsv",)`` writes ``CoLA/train.tsv`` to ``train.tsv``. Every
    member is checked, kept or not, and the archive is read to its end to detect truncation. After
    an error, files may be left in ``folder`` but nowhere else.

    Raises:
        ArchiveError: the archive is corrupt or encrypted, or expands out of proportion; a member
            has an absolute path or ``..`` in it, or is a link or device; two members have the same
            target.
    """
    written: dict[str, Path] = {}
    budget = _MAX_GROWTH * archive.stat().st_size + _FREE_GROWTH
    try:
        for member in _members(archive):
            _check_safe(archive, member)
            wanted = _target_path(member.name, keep)
            if member.content is None or wanted is None:
                continue
            if wanted.casefold() in written:
                raise ArchiveError(f"{archive}: holds {wanted} twice")
            target = folder / wanted
            target.parent.mkdir(parents=True, exist_ok=True)
            budget = _write(archive, member.content, target, budget)
            written[wanted.casefold()] = target
    except _CORRUPTION as error:
        raise ArchiveError(f"{archive}: corrupt archive: {error}") from error
    if not written:
        raise ArchiveError(f"{archive}: holds nothing that matches {', '.join(keep)}")
    return list(written.values())


def _write(archive: Path, content: IO[bytes], target: Path, budget: int) -> int:
    """Copy one member; return the rest of the budget of bytes."""
    with open(target, "xb") as output:
        while piece := content.read(_READ_BYTES):
            budget -= len(piece)
            if budget < 0:
                raise ArchiveError(f"{archive}: unpacks to over {_MAX_GROWTH} times its size")
            output.write(piece)
    return budget


def _check_safe(archive: Path, member: _Member) -> None:
    parts = member.name.replace("\\", "/").split("/")
    problem = member.problem
    if member.name.startswith(("/", "\\")) or ":" in parts[0]:
        problem = "its path is absolute"
    elif ".." in parts:
        problem = "its path holds .."
    elif "\0" in member.name:
        problem = "its path holds a NUL"
    if problem:
        raise ArchiveError(f"{archive}: refused, because of {member.name!r}: {problem}")


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


def _members(archive: Path) -> Iterator[_Member]:
    return _zip_members(archive) if archive.name.endswith(".zip") else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            problem = None
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                problem = "it is a link or device"
            elif entry.flag_bits & 1:
                problem = "it is encrypted"
            if problem or entry.is_dir():
                yield _Member(entry.filename, problem, None)
                continue
            with _zip_content(archive, opened, entry) as content:
                yield _Member(entry.filename, None, content)


def _zip_content(
    archive: Path, opened: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> contextlib.AbstractContextManager[IO[bytes]]:
    try:
        return opened.open(entry)
    except NotImplementedError as error:
        raise ArchiveError(f"{archive}: {entry.filename}: {error}") from error


def _tar_members(archive: Path) -> Iterator[_Member]:
    with gzip.open(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as opened:
            for entry in opened:
                problem = None if entry.isreg() or entry.isdir() else "it is a link or device"
                content = opened.extractfile(entry) if entry.isreg() else None
                yield _Member(entry.name, problem, content)
        # The checksum at the end of the gzip stream comes after the bytes that tarfile reads.
        while stream.read(_READ_BYTES):
            continue
