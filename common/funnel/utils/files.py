"""Atomic replacement of files and directories: write a temporary, flush it to disk, rename it.

A reader sees either the old content or the complete new content. The old content survives a failed
write, a full disk and a killed process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from funnel.utils.errors import DataError, FunnelError

# Writers in native code do not raise OSError when the disk is full: torch.save raises
# RuntimeError("... PytorchStreamWriter ..."), safetensors its own SafetensorError.
_NATIVE_WRITE_FAILURES = ("No space left", "File too large", "PytorchStreamWriter")
_MANY_FILES = 1000
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_SWAP_ATTEMPTS = 10


@contextlib.contextmanager
def name_read_errors(
    path: str | os.PathLike[str], error: type[FunnelError] = DataError
) -> Iterator[None]:
    """Turn an OSError of the body (no permission, bad disk) into one line that names ``path``.

    Raises:
        FunnelError: the body raised an OSError. The class raised is ``error``.
    """
    try:
        yield
    except OSError as caught:
        raise error(f"{path}: cannot be read: {caught.strerror or caught}") from caught


def is_file(path: Path, error: type[FunnelError] = DataError) -> bool:
    """Return whether ``path`` is a file; also for a name that no file system can hold.

    Raises:
        FunnelError: it cannot be said (no permission, bad disk). The class raised is ``error``.
    """
    try:
        return path.is_file()
    except OSError as caught:
        # Path.is_file answers False for a missing file, but raises for a name of over 255 bytes.
        if caught.errno == errno.ENAMETOOLONG:
            return False
        raise error(f"{path}: cannot be read: {caught.strerror or caught}") from caught


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same directory; rename it to ``path`` if the body succeeds.

    The temporary name ends in the real one, so writers that look at the suffix behave the same.
    Parent directories are created. On any failure the temporary file is removed and ``path`` is
    left unchanged.

    Raises:
        FunnelError: the file cannot be written (full disk, no permission); names ``path``.
    """
    target = Path(path)
    with _name_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        temporary = _temporary_path(target)
        try:
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, target)
            _flush_to_disk(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, line ends unchanged; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, keys in their own order; see :func:`atomic_path`.

    Numbers that are not finite become ``null``.
    """
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False)
    with (
        atomic_path(path) as temporary,
        open_json(temporary) as stream,
    ):
        # The pieces of a large value take many times as much memory as its text.
        stream.writelines(encoder.iterencode(finite_json(value)))
        stream.write("\n")


def open_json(path: Path) -> TextIO:
    r"""Open a JSON file to write: UTF-8, line ends unchanged.

    Lone surrogates, which JSON escapes can leave in a text, are written as such an escape again.
    """
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def finite_json(value: Any) -> Any:
    """Return a JSON value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return value


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty directory next to ``path``; swap it in if the body succeeds.

    The old directory is kept until the new one is complete and on disk. POSIX cannot replace a
    non-empty directory in one call, so the swap takes two renames. A kill between them leaves
    ``path`` missing and the old directory under a hidden name; :func:`recover_swap` undoes that.

    Raises:
        FunnelError: the directory cannot be written; names ``path``.
    """
    target = Path(path)
    with _name_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover_swap(target)
        _remove_leftovers(target)
        temporary = _temporary_path(target)
        temporary.mkdir()
        try:
            yield temporary
            _flush_all_to_disk(temporary)
            _swap_in(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def recover_swap(path: str | os.PathLike[str]) -> None:
    """Repair a swap of :func:`atomic_directory` that a kill interrupted; otherwise do nothing.

    Call it before reading a directory that such a swap may replace.
    """
    target, previous = Path(path), _previous_path(Path(path))
    if not os.path.exists(previous):  # also False for a name that is too long
        return
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
        return
    try:
        os.replace(previous, target)
    except OSError:
        # Another process was in the middle of the swap, and has just completed it.
        if not target.exists():
            raise


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _swap_in(temporary: Path, target: Path) -> None:
    previous = _previous_path(target)
    for attempt in range(1, _SWAP_ATTEMPTS + 1):
        if target.exists():
            os.replace(target, previous)
        try:
            os.replace(temporary, target)
            break
        except OSError as error:
            recover_swap(target)
            # A process that reads the directory took the swap for one that a kill interrupted, and
            # has put the old directory back.
            if error.errno not in _NOT_EMPTY or attempt == _SWAP_ATTEMPTS:
                raise
    _flush_to_disk(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _previous_path(target: Path) -> Path:
    return target.with_name(f".previous-{target.name}")


def _temporary_path(target: Path) -> Path:
    owner = f"{socket.gethostname()}-{os.getpid()}"
    return target.with_name(f".tmp-{owner}-{uuid4().hex[:8]}-{target.name}")


def _remove_leftovers(target: Path) -> None:
    """Delete temporaries of the same target left by killed processes of this machine."""
    ours = f".tmp-{socket.gethostname()}-"
    for item in target.parent.iterdir():
        if not (item.name.startswith(ours) and item.name.endswith(f"-{target.name}")):
            continue
        pid = item.name.removeprefix(ours).split("-", 1)[0]
        if not pid.isdigit() or _is_alive(int(pid)):
            continue
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush_all_to_disk(folder: Path) -> None:
    items = sorted(folder.rglob("*"))
    if len(items) > _MANY_FILES:
        os.sync()  # fsync of each takes minutes for 50,000 small files
        return
    for item in [*items, folder]:
        _flush_to_disk(item)


def _flush_to_disk(path: Path) -> None:
    """Flush a file's bytes, or a directory's entries, to disk.

    Without this, a crash after the rename can leave the new name with empty content.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _name_write_errors(target: Path) -> Iterator[None]:
    """Turn a failed write into one line that names ``target``.

    An OSError about another file (e.g. one that the body reads) passes unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _is_about(Path(os.fsdecode(error.filename)), target):
            raise
        raise FunnelError(f"{target}: cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if isinstance(error, FunnelError) or not _is_native_write_failure(error):
            raise
        raise FunnelError(f"{target}: cannot be written: {error}") from error


def _is_about(named: Path, target: Path) -> bool:
    # Also files inside a temporary directory, or the parents that could not be created.
    if named in (target, target.parent) or named in target.parents:
        return True
    return any(part.startswith(".tmp-") and part.endswith(target.name) for part in named.parts)


def _is_native_write_failure(error: Exception) -> bool:
    return any(words in str(error) for words in _NATIVE_WRITE_FAILURES)
